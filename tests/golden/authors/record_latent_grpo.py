"""Records Latent-GRPO's own log-probabilities, advantages and policy loss on small random arrays.

    python tests/golden/authors/record_latent_grpo.py <folder of github.com/DJC-GO-SOLO/Latent-GRPO>

Their functions alone: the trainer around them needs GPUs and its own sglang.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch_case import stand_in, under, write

NUM_GROUPS, GROUP, LONGEST, TOP_K, WORDS = 5, 4, 7, 3, 12
TEMPERATURE = 0.6


def load(folder: str, name: str):
    """One of their files, without the package around it."""
    spec = importlib.util.spec_from_file_location(
        f"verl.{name}", Path(folder, "verl-0.4.x/verl", *name.split(".")).with_suffix(".py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def log_probs(functions, rng) -> dict[str, np.ndarray]:
    """Of latents, some of whose scores the policy has passed, with the gradient of their sum."""
    logits = torch.tensor(rng.normal(size=(20, WORDS)), dtype=torch.float32, requires_grad=True)
    ids = torch.from_numpy(np.stack([rng.permutation(WORDS)[:TOP_K] for _ in range(20)]))
    own = torch.log_softmax(logits.detach(), dim=-1).gather(1, ids)
    scores = own + torch.tensor(rng.uniform(-1, 3, size=(20, TOP_K)), dtype=torch.float32)
    advantages = torch.tensor(rng.choice([-1.0, 0.0, 1.0], size=20), dtype=torch.float32)
    functions.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE = True  # what follows it is plain torch
    found = functions.logprobs_from_logits_topk_gumbel(
        logits, ids, scores, labels=ids[:, 0], top_p=0.95, temperature=TEMPERATURE, advantages=advantages
    )
    (gradient,) = torch.autograd.grad(found.sum(), [logits])
    kept = dict(logits=logits.detach(), ids=ids, scores=scores, advantages=advantages, log_probs=found.detach())
    return {f"surrogate/{name}": array.numpy() for name, array in kept.items()} | {
        "surrogate/gradient": gradient.numpy()
    }


def credit(functions, rng) -> dict[str, np.ndarray]:
    """Advantages, in which one first step wins and overlong responses are left out; and the loss of an update."""
    shape = (NUM_GROUPS * GROUP, LONGEST)
    lengths = rng.randint(2, LONGEST + 1, len(range(shape[0])))
    lengths[:GROUP] = LONGEST - 1  # a group without one that is cut
    mask = torch.from_numpy((np.arange(LONGEST)[None] < lengths[:, None]).astype(np.float32))
    rewards = torch.zeros(shape)
    rewards[:, 0] = torch.from_numpy(rng.randint(0, 2, shape[0]).astype(np.float32))
    rewards[GROUP : 2 * GROUP, 0] = 0  # and one without a right answer
    old = torch.tensor(rng.uniform(-3, -0.1, shape), dtype=torch.float32)
    groups = np.repeat(np.arange(NUM_GROUPS), GROUP)
    arguments = dict(token_level_rewards=rewards, response_mask=mask, index=groups, old_log_probs=old)
    name = "compute_latent_grpo_outcome_advantage_firstmask_best_{}_advantage"
    left_out, _, _ = getattr(functions, name.format("exclude"))(**arguments, max_response_length=LONGEST)
    counted, _, _ = getattr(functions, name.format("include"))(**arguments)
    new = (old + torch.tensor(rng.normal(size=shape), dtype=torch.float32)).requires_grad_()
    loss = functions.compute_policy_loss(old, new, counted, mask, cliprange=0.2, clip_ratio_c=3.0)[0]
    (gradient,) = torch.autograd.grad(loss, [new])
    kept = dict(rewards=rewards[:, 0], mask=mask, old=old, left_out=left_out, counted=counted, new=new, loss=loss)
    kept["gradient"] = gradient
    return under("credit", {name: array.detach().numpy() for name, array in kept.items()})


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    stand_in("tensordict", TensorDict=None)
    for name in ("verl", "verl.utils"):
        stand_in(name)
    stand_in("verl.utils.device", get_torch_device=None, get_device_name=None)
    rng = np.random.RandomState(0)
    of_torch = load(sys.argv[1], "utils.torch_functional")
    sys.modules["verl"].utils, sys.modules["verl.utils"].torch_functional = sys.modules["verl.utils"], of_torch
    write("latent_grpo", log_probs(of_torch, rng) | credit(load(sys.argv[1], "trainer.ppo.core_algos"), rng))


if __name__ == "__main__":
    main()

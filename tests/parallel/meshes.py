"""Training steps and decodes of a small model on one mesh after another, in a process with eight devices.

As a script (`python meshes.py numbers.npz case ...`) it writes the numbers of these cases, such as
`colar,full,2-2-2`; the mesh is data-fsdp-tensor.
"""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
MESHES = ("8-1-1", "2-4-1", "1-8-1", "2-2-2", "1-2-4", "4-1-2", "1-1-2")
VOCABULARY = 112  # which every tensor axis divides


@functools.cache
def model(lora: bool, method: str = "colar"):
    """Graph and parameters of a model with an untied head, so that every kind of weight is there."""
    import pico_model
    from flax import traverse_util

    from colar_jax.model.latent_head import LatentHeadConfig
    from colar_jax.model.lora import LoraConfig
    from colar_jax.model.presets import PRESETS
    from colar_jax.model.reasoner import build

    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY, tied_head=False, qkv_bias=True)
    adapters = LoraConfig(rank=4, alpha=8.0, targets=("query", "down"), dropout=0.25) if lora else None
    graph, parameters = build(llama, LatentHeadConfig(24), 0, adapters, bound_method(method).modules)
    flat, rng = traverse_util.flatten_dict(parameters), np.random.default_rng(0)

    def larger(path, leaf):
        fan_in = leaf.shape[-2] if path[-1] == "kernel" else pico_model.HIDDEN
        shift = 1.0 if path[-1] in ("scale", "norm_scale", "embed_std") else 0.0
        return (shift + 0.5 * rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return graph, traverse_util.unflatten_dict({path: larger(path, leaf) for path, leaf in sorted(flat.items())})


def bound_method(name: str):
    """A method with settings that leave no term out."""
    from colar_jax.methods import METHODS

    settings = {
        "colar": dict(weight=0.7, entropy_weight=-0.05),
        "codi": dict(projection_size=8),
        "sim_codi": dict(projection_size=8),
        "kava": dict(projection_size=8, num_latents=4),
        "adaptive": dict(projection_size=8),
        "latent_sft": dict(top_k=4),
    }
    return METHODS[name](**settings.get(name, {}))


def batch_for(method):
    """Eight rows, unevenly filled."""
    from pico_model import UNEVEN, batch_of
    from pico_thoughts import problems

    from colar_jax.methods.method import Method

    if type(method).make_loader is Method.make_loader:
        return batch_of(UNEVEN)[0]
    return method.make_loader(problems(40), seed=0, rows=8, row_positions=80).batch(0)


def mesh_of(name: str):
    import jax

    from colar_jax.parallel.mesh import AXES, make_mesh

    sizes = dict(zip(AXES, map(int, name.split("-")), strict=True))
    return make_mesh(jax.devices()[: int(np.prod(list(sizes.values())))], sizes)


def keeps_gradients():
    """An optimizer that changes nothing, and whose state is the last gradients."""
    import jax
    import optax

    def zeros(tree):
        return jax.tree.map(np.zeros_like, tree)

    return optax.GradientTransformation(
        lambda parameters: jax.tree.map(jax.numpy.zeros_like, parameters),
        lambda gradients, state, parameters: (jax.tree.map(jax.numpy.zeros_like, gradients), gradients),
    )


def step_and_arguments(method: str, adapted: str, mesh_name: str, optimizer=None, **compute):
    """The compiled step of a case, and what to call it with."""
    import jax
    from pico_model import ROWS

    from colar_jax.config import Compute, StageConfig
    from colar_jax.engine import Engine
    from colar_jax.parallel.mesh import put, put_rows
    from colar_jax.parallel.sharding import shardings_of, specs_for
    from colar_jax.training.state import initial_state, model_specs, partition, place_state
    from colar_jax.training.step import make_train_step

    mesh, (graph, parameters), bound = mesh_of(mesh_name), model(adapted == "lora", method), bound_method(method)
    trainable, frozen = partition(parameters, bound.trains)
    stage = StageConfig(method=method, rows=ROWS, bound_method=bound)
    optimizer = keeps_gradients() if optimizer is None else optimizer
    step = make_train_step(Engine(graph, mesh, Compute(**compute)), stage.bound_method, stage, optimizer)
    specs = model_specs(graph, trainable, frozen, mesh)
    state = place_state(initial_state(trainable, optimizer), optimizer, specs, mesh)
    frozen = put(frozen, shardings_of(specs_for(frozen, specs), mesh))
    return step, (state, frozen, put_rows(batch_for(bound), mesh), jax.random.key(5))


def numbers_of_a_step(method: str, adapted: str, mesh_name: str) -> dict[str, np.ndarray]:
    """Loss and gradients by name."""
    import jax
    from flax import traverse_util

    from colar_jax.metrics import divide

    step, arguments = step_and_arguments(method, adapted, mesh_name)
    state, metrics = step(*arguments)
    numbers = {f"metrics/{name}": value for name, value in divide(metrics).items()}
    gradients = traverse_util.flatten_dict(jax.device_get(state.optimizer), sep="/")
    return numbers | {f"gradients/{name}": leaf for name, leaf in gradients.items()}


def numbers_of_muon(method: str, adapted: str, mesh_name: str) -> dict[str, np.ndarray]:
    """What two steps of Muon move, relative to how far it is moved at most, and what it keeps."""
    import jax
    from flax import traverse_util

    from colar_jax.config import OptimizerConfig
    from colar_jax.parallel.sharding import logical_axes
    from colar_jax.training.optimizer import make_optimizer

    config = OptimizerConfig(name="muon", learning_rate=0.01, schedule="constant")
    optimizer = make_optimizer(config, 1, logical_axes(*model(adapted == "lora", method)))
    step, (state, *others) = step_and_arguments(method, adapted, mesh_name, optimizer)
    before = jax.device_get(state.trainable)
    for _ in range(2):
        state, _ = step(state, *others)
    moved = jax.tree.map(np.subtract, jax.device_get(state.trainable), before)
    kept = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(jax.device_get(state.optimizer))
    }
    moved = traverse_util.flatten_dict(moved, sep="/")
    named = {"moved": moved, "kept": kept}
    return {f"{kind}/{name}": leaf for kind, leaves in named.items() for name, leaf in leaves.items()}


def numbers_of_a_decode(method: str, gather: str, mesh_name: str) -> dict[str, np.ndarray]:
    """Greedy chains and answers of 16 questions, some short and some cut at the limit."""
    import jax
    from rl.pico_policy import COMPUTE, EOS_ID, SAMPLING, SEPARATOR_ID, policy

    from colar_jax.config import ParallelConfig
    from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
    from colar_jax.engine import Engine
    from colar_jax.methods import METHODS
    from colar_jax.methods.method import decode_limits
    from colar_jax.parallel.mesh import num_shards, put, put_rows
    from colar_jax.parallel.sharding import parameter_specs, shardings_of

    mesh, (graph, parameters) = mesh_of(mesh_name), policy()
    thinking = METHODS[method]().thinking(SAMPLING, SEPARATOR_ID, greedy=True)
    limits = decode_limits(thinking, SAMPLING, separator_id=SEPARATOR_ID, eos_id=EOS_ID, greedy=True)
    engine = Engine(graph, mesh, COMPUTE, ParallelConfig(decode_gather=gather))
    program = engine.compile_decode(lambda _: (thinking.think, limits), keeps_thoughts=True)
    rng = np.random.default_rng(0)
    prompts = [np.append(rng.integers(0, SEPARATOR_ID, 3 + i % 7), SEPARATOR_ID).astype(np.int32) for i in range(16)]
    shards = [prompts[i :: num_shards(mesh)] for i in range(num_shards(mesh))]
    order = np.argsort(np.concatenate([np.arange(16)[i :: num_shards(mesh)] for i in range(num_shards(mesh))]))
    shape = shape_for([np.array([len(prompt) for prompt in shard]) for shard in shards])
    packed = jax.tree.map(lambda *parts: np.concatenate(parts), *(pack_prompts(shard, shape) for shard in shards))
    placed = put(parameters, shardings_of(parameter_specs(graph, parameters, mesh), mesh))
    decoded = jax.device_get(program(placed, *put_rows((packed, jax.random.split(jax.random.key(0), 16)), mesh)))
    lengths = {"num_thoughts": decoded.num_thoughts_B[order], "num_tokens": decoded.num_answer_tokens_B[order]}
    ids, thoughts = decoded.answer_ids_BA[order], decoded.thoughts[order]
    of_answer = np.arange(ids.shape[1])[None] < lengths["num_tokens"][:, None]
    of_chain = np.arange(thoughts.shape[1])[None] < lengths["num_thoughts"][:, None]
    of_chain = of_chain.reshape(of_chain.shape + (1,) * (thoughts.ndim - 2))
    return lengths | {"ids": np.where(of_answer, ids, -1), "thoughts": np.where(of_chain, thoughts, -1)}


def _moved(graph, parameters, decode_mesh: str, mesh_name: str):
    """An engine of a mesh that decodes on another one, and the parameters as training has them."""
    from rl.pico_policy import COMPUTE

    from colar_jax.config import ParallelConfig
    from colar_jax.engine import Engine
    from colar_jax.parallel.mesh import put
    from colar_jax.parallel.sharding import parameter_specs, shardings_of

    mesh = mesh_of(mesh_name)
    parallel = ParallelConfig(decode_mesh="" if decode_mesh == "none" else decode_mesh)
    placed = put(parameters, shardings_of(parameter_specs(graph, parameters, mesh), mesh))
    return Engine(graph, mesh, COMPUTE, parallel), placed


def numbers_of_an_evaluation(method: str, decode_mesh: str, mesh_name: str) -> dict[str, np.ndarray]:
    """Greedy answers, and how many latents they took, on a mesh of its own."""
    from pico_thoughts import problems

    from colar_jax.config import DecodeConfig
    from colar_jax.data.answers import VERIFIERS
    from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
    from colar_jax.evaluation.evaluator import Evaluator, Workload
    from colar_jax.evaluation.judge import Judge

    (graph, parameters), encoded = model(False, method), problems(24)
    engine, placed = _moved(graph, parameters, decode_mesh, mesh_name)
    judge, decode = Judge(load_tokenizer(EMBEDDED), VERIFIERS["numeric"]), DecodeConfig(max_latents=6)
    evaluator = Evaluator(engine, bound_method(method), judge, decode, Workload([encoded], ("auto",), 16))
    outcome = evaluator.run(placed, encoded, "auto", seed=None)
    assert len(set(outcome.texts)) > 4
    return {"texts": np.array(outcome.texts), "lengths": outcome.lengths_N, "tokens": outcome.answer_tokens_N}


def numbers_of_rollouts(method: str, decode_mesh: str, mesh_name: str) -> dict[str, np.ndarray]:
    """What is sampled for some prompts on a mesh of its own."""
    import jax
    from rl.pico_policy import PROMPTS, policy, sampler

    graph, parameters = policy()
    engine, placed = _moved(graph, parameters, decode_mesh, mesh_name)
    ((_, decoded),) = sampler(engine=engine, method=bound_method(method)).run(placed, PROMPTS, jax.random.key(4))
    of_chain = np.arange(decoded.thoughts.shape[1])[None] < decoded.num_thoughts_B[:, None]
    thoughts = np.where(of_chain[..., None], decoded.thoughts, -1)
    return {"ids": decoded.answer_ids_BA, "num_thoughts": decoded.num_thoughts_B, "thoughts": thoughts}


def policy_of(method: str):
    """Its graph and parameters, which parts of them are trained, its rollouts, and how they were sampled."""
    if method == "adaptive":
        import pico_adaptive
        from rl.test_determined_policy import SAMPLING, VOCABULARY, rollouts

        return *pico_adaptive.model(VOCABULARY), pico_adaptive.METHOD.trains, rollouts(), SAMPLING
    from rl.pico_policy import SAMPLING, policy, rollouts

    parts = {"colar": ("llama", "latent_head"), "latent_sft": ("llama",)}
    return *policy(), parts[method], rollouts(method=bound_method(method)), SAMPLING


def numbers_of_an_update(method: str, adapted: str, mesh_name: str) -> dict[str, np.ndarray]:
    """Gradients of GRPO with a reference policy on tree rows, half of them empty."""
    import jax
    from flax import traverse_util
    from rl.pico_policy import COMPUTE, SEPARATOR_ID, batch_of

    from colar_jax.config import RlConfig, StageConfig
    from colar_jax.engine import Engine
    from colar_jax.metrics import divide
    from colar_jax.parallel.mesh import put, put_rows
    from colar_jax.parallel.sharding import shardings_of, specs_for
    from colar_jax.rl.grpo import make_policy_step
    from colar_jax.training.state import initial_state, model_specs, partition, place_state

    mesh, (graph, parameters, parts, sampled, sampling) = mesh_of(mesh_name), policy_of(method)
    trainable, frozen = partition(parameters, parts)
    frozen = frozen | {"reference": jax.tree.map(lambda leaf: 1.2 * leaf, trainable)}
    stage = StageConfig(method="colar", trainer="grpo", rl=RlConfig(beta=0.1, entropy_weight=0.1, minibatch_size=32))
    optimizer = keeps_gradients()
    step = make_policy_step(Engine(graph, mesh, COMPUTE), stage, sampling, SEPARATOR_ID, optimizer)
    specs = model_specs(graph, trainable, frozen, mesh)
    state = place_state(initial_state(trainable, optimizer), optimizer, specs, mesh)
    frozen = put(frozen, shardings_of(specs_for(frozen, specs), mesh))
    rows = put_rows(batch_of(sampled, sampling=sampling, num_rows=8), mesh)
    state, metrics = step(state, frozen, rows, jax.random.key(0))
    # At the first update these are nothing but rounding.
    is_rounding = ("gap/", "log_ratio/", "lost/")
    numbers = {f"metrics/{name}": value for name, value in divide(metrics).items() if not name.startswith(is_rounding)}
    gradients = traverse_util.flatten_dict(jax.device_get(state.optimizer), sep="/")
    return numbers | {f"gradients/{name}": leaf for name, leaf in gradients.items()}


def collectives_of_a_step(method: str, adapted: str, mesh_name: str) -> dict[str, np.ndarray]:
    """Of the compiled step, the number of elements of each array that a collective makes, by kind."""
    from parallel.hlo import collectives

    step, arguments = step_and_arguments(method, adapted, mesh_name)
    found = collectives(step.lower(*arguments).compile())
    return {kind: np.array([int(np.prod(shape)) for shape in shapes]) for kind, shapes in found.items()}


CASES = {
    "step": numbers_of_a_step,
    "muon": numbers_of_muon,
    "decode": numbers_of_a_decode,
    "evaluate": numbers_of_an_evaluation,
    "rollouts": numbers_of_rollouts,
    "update": numbers_of_an_update,
    "collectives": collectives_of_a_step,
}


def run_cases(cases: list[str], path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The numbers of cases, by case and name, from a process with eight devices."""
    environment = {
        # What is compared is compiled alike, and as quickly as can be.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
    }
    command = [sys.executable, __file__, str(path), *cases]
    subprocess.run(command, env=os.environ | environment, check=True, timeout=900)
    with np.load(path) as arrays:
        numbers = dict(arrays)
    return {
        case: {name.removeprefix(f"{case}:"): leaf for name, leaf in numbers.items() if name.startswith(f"{case}:")}
        for case in cases
    }


def main() -> None:
    """Write the numbers of the cases on the command line."""
    numbers = {}
    for case in sys.argv[2:]:
        what, *rest = case.split(",")
        of_case = CASES[what](*rest)
        numbers |= {f"{case}:{name}": leaf for name, leaf in of_case.items()}
        print(case, flush=True)
    np.savez(sys.argv[1], **numbers)


if __name__ == "__main__":
    main()

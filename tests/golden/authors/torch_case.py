"""The small case on the authors' side: the model as a Hugging Face folder, its problems, and what is kept of a run.

    python tests/golden/authors/torch_case.py        draws the case anew, into case.npz

Needs torch and transformers; the authors' code is of 2024 and 2025 and needs transformers 4.46 (README.md).
"""

import json
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

HERE = Path(__file__).parent
HIDDEN, LAYERS, MLP, VOCABULARY, NUM_ADDED = 32, 2, 48, 64, 3
KV_WIDTH = 16
# The last three ids are those that an author's code adds to a vocabulary.
STEP_START, STEP_END, LINE_BREAK, PROMPT_END, EOS = 50, 51, 52, 59, 60
PAD, SEPARATOR, LATENT = 61, 62, 63
PREFIX = (55, 56)  # of every answer
NUM_STEPS = (1, 2, 3, 5)  # of each problem
QUESTION = 6  # tokens of each: the authors' left padding is part of what their code computes
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "head_dim": 8,
    "intermediate_size": MLP,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def case() -> dict[str, np.ndarray]:
    """The arrays of case.npz."""
    with np.load(HERE / "case.npz") as arrays:
        return dict(arrays)


def draw() -> dict[str, np.ndarray]:
    """Weights that attention and the heads look at what they are given with, and problems. One seed, one stream."""
    rng = np.random.RandomState(18)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, width in (("q", HIDDEN), ("k", KV_WIDTH), ("v", KV_WIDTH), ("o", HIDDEN)):
            shapes[f"{prefix}self_attn.{name}_proj.weight"] = (width, HIDDEN)
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (MLP, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, MLP)
    out = {f"{part}.{name}": _weight(rng, name, shape) for part in ("llm", "decoder") for name, shape in shapes.items()}
    for name, shape in (("first", (HIDDEN, HIDDEN)), ("second", (HIDDEN, HIDDEN)), ("norm", (HIDDEN,))):
        out[f"projection.{name}.weight"] = _weight(rng, name, shape)
        out[f"projection.{name}.bias"] = (0.1 * rng.normal(size=HIDDEN)).astype(np.float32)
    for problem, num_steps in enumerate(NUM_STEPS):
        steps = [[STEP_START, *rng.randint(1, 50, rng.randint(1, 5)), STEP_END] for _ in range(num_steps)]
        out[f"problem{problem}/question"] = np.append(rng.randint(1, 50, QUESTION - 1), PROMPT_END).astype(np.int32)
        out[f"problem{problem}/steps"] = np.concatenate(steps).astype(np.int32)
        out[f"problem{problem}/step_lengths"] = np.array([len(step) for step in steps], np.int32)
        own = rng.randint(1, 50, rng.randint(1, 4))
        out[f"problem{problem}/answer"] = np.array([*PREFIX, *own, EOS], np.int32)
    out["stop_choice.rows"] = _weight(rng, "rows", (2, HIDDEN))
    return out


def _weight(rng, name: str, shape) -> np.ndarray:
    is_norm = "norm" in name
    return (is_norm + rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)


class Problem:
    """A problem of the case, its parts lists of ids."""

    def __init__(self, arrays: dict[str, np.ndarray], number: int):
        self.question, self.answer = (arrays[f"problem{number}/{part}"].tolist() for part in ("question", "answer"))
        stops = np.cumsum(arrays[f"problem{number}/step_lengths"])[:-1]
        self.steps = [step.tolist() for step in np.split(arrays[f"problem{number}/steps"], stops)]

    def chain(self, start: int = 0, stop: int | None = None) -> list[int]:
        """The tokens of some of its steps."""
        return [token for step in self.steps[start:stop] for token in step]


def problems() -> list[Problem]:
    """All of them."""
    arrays = case()
    return [Problem(arrays, number) for number in range(len(NUM_STEPS))]


def llama_folder(*, num_tokens: int = VOCABULARY - NUM_ADDED) -> str:
    """A new folder with the model and a tokenizer of its vocabulary, for `from_pretrained`; its path says `llama`.

    An author's code adds ids of its own behind `num_tokens`.
    """
    folder = Path(tempfile.mkdtemp(prefix="llama_"))
    weights = {name: array for name, array in case().items() if name.startswith("llm.")}
    weights = {name.removeprefix("llm."): array for name, array in weights.items()}
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:num_tokens].copy()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(LLAMA | {"vocab_size": num_tokens}))
    tokenizer = Tokenizer(models.WordLevel({f"t{token}": token for token in range(num_tokens)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    of_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"t{EOS}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(of_tokenizer))
    return str(folder)


def load(module: nn.Module, part: str, embedding: torch.Tensor | None = None) -> None:
    """The case's float32 weights of `llm` or `decoder` into a Llama, of `projection` into a sequence of layers.

    Args:
        embedding: in place of the case's.
    """
    arrays = {name: torch.from_numpy(a) for name, a in case().items() if name.startswith(f"{part}.")}
    arrays = {name.removeprefix(f"{part}."): array for name, array in arrays.items()}
    module.float()
    if part != "projection":
        arrays |= {} if embedding is None else {"model.embed_tokens.weight": embedding}
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
        module.load_state_dict(arrays)
        return
    for name, layer in _layers_of(module):
        layer.load_state_dict({kind: arrays[f"{name}.{kind}"] for kind in ("weight", "bias")})


def parameters_of(module: nn.Module, part: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of such a module under the case's names."""
    if part != "projection":
        yield from ((f"{part}.{name}", parameter) for name, parameter in module.named_parameters())
        return
    for name, layer in _layers_of(module):
        yield from ((f"projection.{name}.{kind}", parameter) for kind, parameter in layer.named_parameters())


def _layers_of(projection: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Its two linear layers, and its norm if it has one."""
    layers = [layer for layer in projection if isinstance(layer, nn.Linear | nn.LayerNorm)]
    return zip(("first", "second", "norm"), layers, strict=False)


def gradient_norms(loss: torch.Tensor, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, np.ndarray]:
    """The norm of the loss's gradient for each parameter, 0 where it does not reach, and their names."""
    names, tensors = zip(*parameters, strict=True)
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)
    norms = [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]
    return {"gradient_names": np.array(names), "gradient_norms": np.array(norms, np.float32)}


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of ids, padded on the right."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def stand_in(module: str, **names) -> None:
    """Let a library be imported that the authors' files name, and nothing here uses."""
    sys.modules[module] = types.ModuleType(module)
    vars(sys.modules[module]).update(names)


def write(name: str, arrays: dict[str, np.ndarray]) -> None:
    """`<name>.npz` beside this file; says how large it is."""
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size:,} bytes, {len(arrays)} arrays")


def under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, their names below a prefix."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


if __name__ == "__main__":
    write("case", draw())

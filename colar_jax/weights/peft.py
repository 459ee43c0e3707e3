"""LoRA adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

torch keeps a linear layer as `[out, in]` and every layer by itself; ours are `[in, out]`, stacked over the layers. PEFT
itself is not needed.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import ADAPTER, LoraConfig
from colar_jax.parallel.sharding import Tree
from colar_jax.settings import PROJECTIONS, parse_targets
from colar_jax.weights.base_model import local_base
from colar_jax.weights.hf_config import ADAPTER_CONFIG_FILE
from colar_jax.weights.hf_fields import is_number, is_positive, is_whole
from colar_jax.weights.safetensors_io import write_arrays

ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# Leaf of ours -> PEFT's matrix, whose shape is the transposed one.
_MATRICES = {"a": "lora_A", "b": "lora_B"}
_IS_ATTENTION = ("query", "key", "value", "out")
_DTYPES = ("F32", "F16", "BF16")
# Settings that do not change what an adapter computes: where it comes from, and how it is trained.
_FREE_NAMES = """
    peft_type r lora_alpha lora_dropout target_modules task_type auto_mapping peft_version base_model_name_or_path
    revision inference_mode megatron_core qalora_group_size runtime_config
"""
_FREE = frozenset(_FREE_NAMES.split())
_EMPTY_IS_OFF = ("rank_pattern", "alpha_pattern", "loftq_config")
# Initialisations that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, ...) may change its weights, and
# the adapter then fits only the changed base.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "orthogonal")


def read_adapter(folder: Path, llama: LlamaConfig, expected: LoraConfig | None = None) -> tuple[LoraConfig, Tree]:
    """An adapter's description, and its matrices as float32 leaves of the tree of parameters, `{"llama": ...}`.

    Raises:
        UserError: the folder is none of an adapter, has settings that we do not compute, is not of `expected` (where
            that is given; dropout may differ), or its tensors are not those of a model of this shape; says all at once.
    """
    config = read_adapter_config(folder)
    if expected is not None and dataclasses.replace(config, dropout=expected.dropout) != expected:
        raise UserError(
            f"{folder / ADAPTER_CONFIG_FILE} has rank {config.rank}, alpha {config.alpha:g}, targets "
            f"{','.join(config.targets)}, and the config asks for {expected.rank}, {expected.alpha:g}, "
            f"{','.join(expected.targets)}: set model.lora as the adapter is"
        )
    tensors = _read_tensors(folder / ADAPTER_WEIGHTS_FILE, _shape_of_name(llama, config))
    return config, _stacked(tensors, llama, config)


def adapter_tree(tensors: dict[str, np.ndarray], llama: LlamaConfig, config: LoraConfig, *, source: str) -> Tree:
    """As `read_adapter`, from float32 tensors by their names in an adapter's file; `source` is for the error."""
    found = {name: ("F32", tensor.shape) for name, tensor in tensors.items()}
    wrong = list(_differences(found, _shape_of_name(llama, config)))
    if wrong:
        raise UserError(f"{source} is not of this model and its model.lora settings:\n" + "\n".join(wrong))
    return _stacked(tensors, llama, config)


def _stacked(tensors: dict[str, np.ndarray], llama: LlamaConfig, config: LoraConfig) -> Tree:
    blocks = {}
    for target in config.targets:
        names = {leaf: [_name(target, layer, leaf) for layer in range(llama.num_layers)] for leaf in _MATRICES}
        stacked = {leaf: np.stack([tensors[name].T for name in of_leaf]) for leaf, of_leaf in names.items()}
        blocks[target] = {ADAPTER: stacked}
    return {"llama": {"blocks": blocks}}


def write_adapter(folder: Path, parameters: Tree, config: LoraConfig, *, base_name: str = "") -> None:
    """Write the adapters of `parameters` as a folder that PEFT loads.

    `base_name` is the base model's folder, file or hub id (`owner/name[@revision]`). What lies on this machine is named
    by its whole path, for who loads the folder may stand elsewhere.

    The description is written last: a folder that has one is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for target in config.targets:
        for leaf, stacked in parameters["llama"]["blocks"][target][ADAPTER].items():
            for layer, matrix in enumerate(np.asarray(jax.device_get(stacked), np.float32)):
                tensors[_name(target, layer, leaf)] = np.ascontiguousarray(matrix.T)
    is_here = bool(base_name) and local_base(base_name).exists()
    base, revision = (str(local_base(base_name).resolve()), "") if is_here else base_name.partition("@")[::2]
    description = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "revision": revision or None,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": [PROJECTIONS[target] for target in config.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    _replace(folder / ADAPTER_WEIGHTS_FILE, lambda path: write_arrays(tensors, path))
    text = json.dumps(description, indent=2) + "\n"
    _replace(folder / ADAPTER_CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def _replace(path: Path, write) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)


def read_adapter_config(folder: Path) -> LoraConfig:
    """An adapter's description, from the folder that PEFT wrote. UserError for what we do not compute."""
    path = folder / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no adapter's folder: it has no {ADAPTER_CONFIG_FILE}")
    found = read_json_object(path)
    wrong = [*_wrong_values(found), *(f"{name}={found[name]!r}" for name in _unsupported(found))]
    if wrong:
        raise UserError(f"{path}: not supported: {'; '.join(wrong)}. Merge such an adapter into its base with PEFT")
    targets = found["target_modules"]
    if targets == "all-linear":
        targets = list(PROJECTIONS.values())
    dropout = found.get("lora_dropout") or 0.0
    return LoraConfig(found["r"], float(found["lora_alpha"]), parse_targets(",".join(targets)), float(dropout))


def _wrong_values(found: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the settings that are read."""
    if found.get("peft_type") != "LORA":
        yield f"peft_type={found.get('peft_type')!r}"
    if not is_whole(found.get("r")):
        yield f"r={found.get('r')!r} (a whole number above 0 is)"
    if not is_positive(found.get("lora_alpha")):
        yield f"lora_alpha={found.get('lora_alpha')!r} (a number above 0 is)"
    dropout = found.get("lora_dropout")
    if dropout is not None and not (is_number(dropout) and 0 <= dropout < 1):
        yield f"lora_dropout={dropout!r} (a number from 0 to below 1 is)"
    targets, known = found.get("target_modules"), list(PROJECTIONS.values())
    is_list = isinstance(targets, list) and targets != [] and all(target in known for target in targets)
    if targets != "all-linear" and not is_list:
        yield f"target_modules={targets!r} (a list of {', '.join(known)} is)"


def _unsupported(found: dict[str, Any]) -> list[str]:
    """Settings that are on, and that are neither read nor known to change nothing: those of PEFT's future included."""
    names = sorted(name for name in found if name not in _FREE and not _is_off(name, found[name]))
    return [name for name in names if name != "init_lora_weights" or not _is_plain(found[name])]


def _is_plain(initialisation: Any) -> bool:
    return any(type(initialisation) is type(known) and initialisation == known for known in _PLAIN_INITIALISATIONS)


def _is_off(name: str, value: Any) -> bool:
    if value == {}:  # of another setting it could mean "with all defaults"
        return name in _EMPTY_IS_OFF
    return value is False or value in (None, "none", [])  # not so 0, which is a layer


def _name(target: str, layer: int, leaf: str) -> str:
    part = "self_attn" if target in _IS_ATTENTION else "mlp"
    return f"base_model.model.model.layers.{layer}.{part}.{PROJECTIONS[target]}.{_MATRICES[leaf]}.weight"


def _shape_of_name(llama: LlamaConfig, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """Every tensor that an adapter of a model of this shape has, with its shape in the file."""
    D, F, R = llama.hidden_size, llama.intermediate_size, config.rank
    query_size, kv_size = llama.num_heads * llama.head_dim, llama.num_kv_heads * llama.head_dim
    sizes = {
        "query": (D, query_size),
        "key": (D, kv_size),
        "value": (D, kv_size),
        "out": (query_size, D),
        "gate": (D, F),
        "up": (D, F),
        "down": (F, D),
    }
    shapes = {}
    for target in config.targets:
        in_size, out_size = sizes[target]
        for layer in range(llama.num_layers):
            shapes |= {_name(target, layer, "a"): (R, in_size), _name(target, layer, "b"): (out_size, R)}
    return shapes


def _read_tensors(path: Path, wanted: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    if not path.is_file():
        pickled = path.with_name("adapter_model.bin").is_file()
        reason = (
            "adapter_model.bin is a pickle, which is not read: save it with safe_serialization=True" if pickled else ""
        )
        raise UserError(f"{path} does not exist. {reason}".rstrip())
    try:
        with safe_open(path, framework="flax") as file:  # which has bfloat16, as numpy has not
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            wrong = list(_differences(found, wanted))
            if not wrong:
                return {name: np.asarray(file.get_tensor(name)).astype(np.float32) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file, or is cut short: {error}") from None
    raise UserError(f"{path} is not of this model and its {ADAPTER_CONFIG_FILE}:\n" + "\n".join(wrong))


def _differences(found: dict, wanted: dict):
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            yield f"  missing: {name} {list(wanted[name])}"
        elif name not in wanted:
            yield f"  unexpected: {name} {list(found[name][1])}"
        elif found[name][1] != wanted[name]:
            yield f"  {name}: is {list(found[name][1])}, must be {list(wanted[name])}"
        elif found[name][0] not in _DTYPES:
            yield f"  {name}: is {found[name][0]}, must be one of {', '.join(_DTYPES)}"

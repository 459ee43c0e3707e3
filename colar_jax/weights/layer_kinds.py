"""Which layers of a `config.json` are of another kind than the others: `layer_types` and sliding windows.

What several families have alike; what one has alone stands beside its entry in `weights.families`.
"""

from collections.abc import Iterator
from typing import Any

from colar_jax.model.llama_config import FULL, SLIDING, LlamaConfig

Raw = dict[str, Any]  # of a config.json
LAYER_TYPES = {"full_attention": FULL, "sliding_attention": SLIDING}


def layer_types_of(config: LlamaConfig) -> list[str]:
    """The `layer_types` of a model."""
    names = {ours: theirs for theirs, ours in LAYER_TYPES.items()}
    return [names[kind] for kind in config.kinds]


def some_window(config: LlamaConfig) -> int:
    """transformers wants one of these models also where no layer slides."""
    return 4096 if config.window is None else config.window


def kinds_of_layer_types(raw: Raw, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds that `layer_types` names; where it is not there, `otherwise`."""
    named = raw.get("layer_types")
    return otherwise if named is None else tuple(LAYER_TYPES[name] for name in named)


def layer_type_faults(raw: Raw) -> Iterator[str]:
    """What is wrong with the `layer_types` of a family that may have them."""
    named, window = set(raw.get("layer_types") or ()), raw.get("sliding_window")
    if unknown := sorted(named - LAYER_TYPES.keys()):
        yield f"layer_types has {', '.join(unknown)}: only {' and '.join(LAYER_TYPES)} are supported"
    if "sliding_attention" in named and (window is None or raw.get("use_sliding_window") is False):
        yield "layer_types has sliding_attention, and there is no sliding window (sliding_window, use_sliding_window)"


def no_window_faults(raw: Raw) -> Iterator[str]:
    """What is wrong where a family has no sliding windows here."""
    if raw.get("use_sliding_window") or set(raw.get("layer_types") or ()) - {"full_attention"}:
        yield f"use_sliding_window=true (or such layer_types): no {raw['model_type']} with sliding windows is supported"


def sliding(kinds: tuple[str, ...], window: int | None, **besides) -> Raw:
    """Layers of these kinds; where none slides, all are as usual."""
    return {"layers": kinds, "window": window, **besides} if SLIDING in kinds and window is not None else {}

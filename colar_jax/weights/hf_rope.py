"""The rotary settings of a `config.json`: read in both layouts, checked, and written.

Most families have one group of settings, at the top (`rope_theta`, `rope_scaling`) or in `rope_parameters`. A Gemma 3
has two: of its full and of its sliding layers.
"""

import math
from collections.abc import Iterator

from colar_jax.model.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Scaling, YarnScaling
from colar_jax.weights.families import Family, Raw
from colar_jax.weights.hf_fields import is_number, is_positive, is_whole

DEFAULT_THETA = 10_000.0  # where neither config.json nor the family says
_POSITIONS = "original_max_position_embeddings"
_LLAMA3 = {  # ours -> theirs
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_positions": _POSITIONS,
}
# What each kind has besides its name; those of yarn that may be left out or null.
_NAMES = {"default": (), "linear": ("factor",), "dynamic": ("factor",), "llama3": tuple(_LLAMA3.values())}
_YARN_OPTIONAL = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
_NAMES["yarn"] = ("factor", _POSITIONS, *_YARN_OPTIONAL, "truncate")
_BY_LAYER_TYPE = {"full_attention", "sliding_attention"}


def rope_faults(raw: Raw, family: Family) -> Iterator[str]:
    """All that is wrong with the rotary settings. A setting that nothing reads is a fault: it was meant to be read."""
    groups = _groups(raw, family)
    if isinstance(groups, str):
        yield groups
        return
    for name, group in groups.items():
        types = ("default",) if name == "sliding_attention" else family.rope_types
        prefix = f"{name}: " if len(groups) > 1 else ""
        yield from (prefix + fault for fault in _faults_of(group, types, _default_theta(family, name)))


def rope_of(raw: Raw, family: Family) -> tuple[float, Scaling | None]:
    """Base and scaling of the rotary embeddings of all layers but sliding ones with their own; no fault is there."""
    group = _groups(raw, family)["full_attention"]
    rope = _merged(group, _default_theta(family, "full_attention"))
    kind = rope["rope_type"]
    return float(rope["rope_theta"]), _SCALINGS[kind](rope, group) if kind != "default" else None


def written(theta: float, scaling: Scaling | None) -> Raw:
    """The fields of the classic layout, which transformers 4 and 5 read."""
    rope: Raw | None = None
    match scaling:
        case Llama3Scaling():
            rope = {"rope_type": "llama3"} | {theirs: getattr(scaling, ours) for ours, theirs in _LLAMA3.items()}
        case LinearScaling() | DynamicScaling():
            kind = "linear" if isinstance(scaling, LinearScaling) else "dynamic"
            rope = {"rope_type": kind, "factor": scaling.factor}
        case YarnScaling():
            rope = {"rope_type": "yarn", "factor": scaling.factor, _POSITIONS: scaling.original_max_positions}
            rope |= {"attention_factor": scaling.amplitude, "beta_fast": scaling.beta_fast}
            rope |= {"beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
    return {"rope_theta": theta, "rope_scaling": rope}


def longest_context(scaling: Scaling | None) -> int:
    """`max_position_embeddings` to write. transformers warns where the scaled context does not fit in it."""
    match scaling:
        case Llama3Scaling() | YarnScaling():
            return int(scaling.original_max_positions * scaling.factor)
        case DynamicScaling():
            return scaling.original_max_positions  # it is what it reads of it
    return 4096


def _default_theta(family: Family, name: str) -> float:
    own = "rope_local_base_freq" if name == "sliding_attention" else "rope_theta"
    return family.defaults.get(own, DEFAULT_THETA)


def _groups(raw: Raw, family: Family) -> dict[str, Raw] | str:
    """The settings by the layers that have them, each as if it were a config.json; or what is wrong with all."""
    if "rope_local_base_freq" not in family.fields:
        return {"full_attention": raw}
    nested = raw.get("rope_parameters") or {}
    if nested.keys() - _BY_LAYER_TYPE or not all(isinstance(part, dict | None) for part in nested.values()):
        return f"rope_parameters={nested!r}: expected an object for full_attention, and one for sliding_attention"
    full = {name: value for name, value in raw.items() if name != "rope_parameters"}
    sliding = {"rope_theta": raw["rope_local_base_freq"]} if "rope_local_base_freq" in raw else {}
    return {
        "full_attention": full | {"rope_parameters": nested.get("full_attention")},
        "sliding_attention": sliding | {"rope_parameters": nested.get("sliding_attention")},
    }


def _merged(group: Raw, default_theta: float) -> Raw:
    """The rotary settings of either layout as one dict with `rope_theta` and `rope_type`."""
    rope = {"rope_theta": group.get("rope_theta", default_theta)}
    rope |= (group.get("rope_scaling") or {}) | (group.get("rope_parameters") or {})
    return {"rope_type": rope.get("type", "default")} | rope  # `type` is the name of old configs


def _faults_of(group: Raw, types: tuple[str, ...], default_theta: float) -> Iterator[str]:
    scaling, parameters = group.get("rope_scaling") or {}, group.get("rope_parameters") or {}
    # Which of several bases transformers takes depends on its version and on what else is there.
    bases = {part["rope_theta"] for part in (group, scaling, parameters) if is_positive(part.get("rope_theta"))}
    if len(bases) > 1:
        yield f"rope_theta is said more than once, as {' and '.join(map(str, sorted(bases)))}: keep one of them"
    for name in sorted(scaling.keys() & parameters.keys()):
        if scaling[name] != parameters[name]:
            yield f"rope_scaling and rope_parameters differ in {name}: {scaling[name]!r} and {parameters[name]!r}"
    if scaling and not {"rope_type", "type"} & scaling.keys():
        yield f"rope_scaling={scaling!r} has no rope_type: say which scaling it is, or remove it"
    rope = _merged(group, default_theta)
    kind = rope["rope_type"]
    if rope.get("type", kind) != kind:
        yield f"rope_type={kind!r} and type={rope['type']!r}: they name the same setting, and differ"
    if not is_positive(rope["rope_theta"]):
        yield f"rope_theta={rope['rope_theta']!r}: expected a number above 0"
    if kind not in types:
        yield f"rope_type={kind!r}: only {', '.join(types)} are supported here"
        return
    yield from _values_of(kind, rope, group)
    of_all = group.get("partial_rotary_factor")
    for factor in (rope.get("partial_rotary_factor", 1.0), 1.0 if of_all is None else of_all):
        if factor != 1.0:
            yield f"partial_rotary_factor={factor!r}: rotary embeddings turn all dimensions here"
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_NAMES[kind]}
    for name in sorted(rope.keys() - known):
        yield f"{name}={rope[name]!r} means nothing to rope_type={kind!r}: name the scaling, or remove it"


def _values_of(kind: str, rope: Raw, group: Raw) -> Iterator[str]:
    """What is wrong with the numbers of a scaling."""
    numbers = [name for name in _NAMES[kind] if name not in (_POSITIONS, "truncate", *_YARN_OPTIONAL)]
    wrong = [name for name in numbers if not is_positive(rope.get(name))]
    if _POSITIONS in _NAMES[kind] and not is_whole(rope.get(_POSITIONS)):
        wrong.append(_POSITIONS)
    for name in wrong:
        yield f"rope_type {kind!r} needs a number {name} above 0, not {rope.get(name)!r}"
    if wrong:
        return
    if kind != "default" and rope["factor"] < 1:
        yield f"factor={rope['factor']!r} of rope_type {kind!r} is below 1"
    of_all = group.get(_POSITIONS)
    if _POSITIONS in _NAMES[kind] and of_all is not None and of_all != rope[_POSITIONS]:
        yield f"{_POSITIONS}={of_all} is another than that of the rotary scaling"
    if kind == "llama3" and rope["low_freq_factor"] >= rope["high_freq_factor"]:
        yield f"low_freq_factor={rope['low_freq_factor']!r} is not below high_freq_factor={rope['high_freq_factor']!r}"
    if kind == "dynamic" and not is_whole(group.get("max_position_embeddings")):
        yield "rope_type 'dynamic' needs max_position_embeddings: up to there, rotary embeddings are plain"
    if kind == "yarn":
        for name in _YARN_OPTIONAL:
            if rope.get(name) is not None and not (is_number(rope[name]) and rope[name] > 0):
                yield f"{name}={rope[name]!r} of rope_type 'yarn': expected a number above 0"
        if type(rope.get("truncate", True)) is not bool:
            yield f"truncate={rope['truncate']!r} of rope_type 'yarn': expected true or false"
        if is_positive(rope["rope_theta"]) and rope["rope_theta"] <= 1:
            yield f"rope_theta={rope['rope_theta']!r} of rope_type 'yarn' is not above 1"


def _yarn(rope: Raw, group: Raw) -> YarnScaling:
    def mscale(weight: float) -> float:
        return 1.0 if rope["factor"] <= 1 else 0.1 * weight * math.log(rope["factor"]) + 1.0

    amplitude, both = rope.get("attention_factor"), (rope.get("mscale"), rope.get("mscale_all_dim"))
    if amplitude is None:
        amplitude = mscale(both[0]) / mscale(both[1]) if all(both) else mscale(1)
    ends = float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1)
    return YarnScaling(rope["factor"], rope[_POSITIONS], float(amplitude), *ends, rope.get("truncate", True))


_SCALINGS = {
    "llama3": lambda rope, group: Llama3Scaling(**{ours: rope[theirs] for ours, theirs in _LLAMA3.items()}),
    "linear": lambda rope, group: LinearScaling(rope["factor"]),
    "dynamic": lambda rope, group: DynamicScaling(rope["factor"], group["max_position_embeddings"]),
    "yarn": _yarn,
}

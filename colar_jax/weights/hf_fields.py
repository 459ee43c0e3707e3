"""The fields of a `config.json`, one by one: what each may hold, and those that change nothing.

A field that is read has a kind here, and a value of another kind is a fault. A field that nobody knows is named in a
warning: transformers ignores it as well, but whoever wrote it may have meant something by it.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

logger = logging.getLogger(__name__)

MAX_LAYERS, MAX_SIZE = 10_000, 2**31 - 1
_LARGEST = 1e30  # no setting comes near it, and float32 holds it and its inverse

Kind = tuple[Callable[[Any], bool], str]  # whether a value is one, and what to call it


def is_whole(value: Any, most: int = MAX_SIZE) -> bool:
    """Whether it is an integer of at least 1; `true` is none."""
    return type(value) is int and 1 <= value <= most


def is_number(value: Any) -> bool:
    """Whether it is a number that float32 holds; `true`, NaN and infinity are none."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0, in float32 too."""
    return is_number(value) and value >= 1 / _LARGEST


def or_null(kind: Kind) -> Kind:
    matches, name = kind
    return lambda value: value is None or matches(value), f"{name}, or null"


SIZE: Kind = (is_whole, "a whole number above 0")
LAYERS: Kind = (lambda value: is_whole(value, MAX_LAYERS), f"a whole number from 1 to {MAX_LAYERS:,}")
POSITIVE: Kind = (is_positive, "a number above 0")
EPSILON: Kind = (lambda value: is_positive(value) and value < 1, "a number above 0 and below 1")
COUNT: Kind = (lambda value: is_whole(value) or (type(value) is int and value == 0), "a whole number")
FLAG: Kind = (lambda value: type(value) is bool, "true or false")
TEXT: Kind = (lambda value: isinstance(value, str), "a text")
OBJECT: Kind = (lambda value: isinstance(value, dict), "an object")
TEXTS: Kind = (
    lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value),
    "a list of texts",
)
WHOLES: Kind = (
    lambda value: isinstance(value, list) and all(type(entry) is int for entry in value),
    "a list of whole numbers",
)

_REQUIRED: dict[str, Kind] = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": SIZE,
    "intermediate_size": SIZE,
}
_OPTIONAL: dict[str, Kind] = {
    "num_key_value_heads": or_null(SIZE),
    "head_dim": or_null(SIZE),
    "hidden_act": TEXT,
    "rms_norm_eps": EPSILON,
    "rope_theta": POSITIVE,
    "rope_scaling": or_null(OBJECT),
    "rope_parameters": or_null(OBJECT),
    "partial_rotary_factor": or_null(POSITIVE),
    "original_max_position_embeddings": or_null(SIZE),
    "tie_word_embeddings": FLAG,
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "use_sliding_window": FLAG,
    "layer_types": or_null(TEXTS),
    "quantization_config": or_null(OBJECT),
    "per_layer_config": or_null(OBJECT),
    "max_position_embeddings": SIZE,
}
# Fields that do not change the hidden states of a sequence: about storing, training, sampling, output.
_HARMLESS_NAMES = """
    architectures model_type torch_dtype dtype transformers_version transformers_weights _name_or_path name_or_path
    tokenizer_class _commit_hash
    use_cache bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id initializer_range
    attention_dropout pretraining_tp sliding_window max_window_layers
    _sliding_window_pattern cache_implementation
    attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal
    experts_implementation _experts_implementation output_hidden_states output_attentions _output_attentions
    return_dict return_dict_in_generate torchscript chunk_size_feed_forward is_encoder_decoder is_decoder
    add_cross_attention cross_attention_hidden_size tie_encoder_decoder finetuning_task problem_type id2label label2id
    num_labels prefix task_specific_params tf_legacy_loss use_bfloat16 pruned_heads gradient_checkpointing
    unsloth_fixed unsloth_version unsloth_processed model_name
    max_length min_length max_new_tokens min_new_tokens do_sample early_stopping max_time num_beams num_beam_groups
    diversity_penalty penalty_alpha temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    encoder_repetition_penalty bad_words_ids force_words_ids renormalize_logits num_return_sequences output_scores
    output_logits suppress_tokens begin_suppress_tokens forced_bos_token_id forced_eos_token_id forced_decoder_ids
    remove_invalid_values exponential_decay_length_penalty
"""
_HARMLESS = frozenset(_HARMLESS_NAMES.split())


def field_faults(raw: dict[str, Any], own: Mapping[str, Kind] = MappingProxyType({})) -> Iterator[str]:
    """One line for each field that is missing, or holds what it cannot; `own` are those of the family alone."""
    for name, (matches, what) in (_REQUIRED | _OPTIONAL | dict(own)).items():
        if (name in raw or name in _REQUIRED) and not matches(raw.get(name)):
            yield f"{name}={raw.get(name)!r}: expected {what}"


def unknown_fields(raw: dict[str, Any], own: Collection[str] = ()) -> list[str]:
    """The names that are neither read nor known to change nothing."""
    return sorted(raw.keys() - _REQUIRED.keys() - _OPTIONAL.keys() - _HARMLESS - set(own))


def warn_of_unknown(raw: dict[str, Any], where: str, own: Collection[str] = ()) -> None:
    """Name in the log what is not read, and what is read differently in training."""
    if unknown := unknown_fields(raw, own):
        logger.warning(
            "%s has fields that are not known here, and are not read: %s. If one of them changes what the model "
            "computes, results are not those of this model",
            where, ", ".join(map(repr, unknown)),
        )  # fmt: skip
    if raw.get("attention_dropout"):
        logger.warning("%s: attention_dropout=%r is not applied in training", where, raw["attention_dropout"])

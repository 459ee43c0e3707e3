"""An exported folder as a run of one stage: its config, made of what the folder says, and its parameters."""

import logging
import os
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from colar_jax.config import plain, resolve_plain
from colar_jax.config.of_before import of_this_version
from colar_jax.data.answers import VERIFIERS
from colar_jax.errors import UserError
from colar_jax.json_object import read_json_object
from colar_jax.methods import Method, find_method
from colar_jax.parallel.mesh import put
from colar_jax.runs.run import Run
from colar_jax.training.state import Tree
from colar_jax.weights.latent_head_file import load_latent_head, read_embed_std, read_head_config
from colar_jax.weights.peft import ADAPTER_CONFIG_FILE, read_adapter_config
from colar_jax.weights.projection_file import PROJECTION_CONFIG_FILE, projection_sizes
from colar_jax.weights.thinking_file import THINKING_FILE, ThinkingFacts, read_thinking

logger = logging.getLogger(__name__)


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that `colar_jax.export` wrote."""
    return (folder / THINKING_FILE).is_file()


def exported_config(folder: Path) -> ml_collections.ConfigDict:
    """The config of a run whose one stage is what a folder holds, and whose base model is the folder's own.

    Raises:
        UserError: the folder does not say what it holds, or holds a method that is not here.
    """
    facts = read_thinking(folder)
    method = find_method(facts.method, f"{folder / THINKING_FILE}: method")
    name = facts.stage or facts.method.rpartition(":")[2]
    stage: dict[str, Any] = {"method": facts.method, "trainer": facts.trainer}
    settings = _settings_of_before(facts, folder) if facts.method_settings is None else facts.method_settings
    if settings:
        stage[method.group] = settings
    decode = facts.decode or {
        "max_latents": max(facts.max_thoughts, 1),
        "min_latents": min(facts.min_thoughts, facts.max_thoughts),
        "max_step_tokens": max(facts.max_thoughts, 1),
        "max_answer_tokens": facts.max_answer_tokens,
    }
    saved = {"title": folder.name, "run": name, "stages": {name: stage}, "decode": decode}
    # A function of theirs is not here, and a folder of others names nothing that is to be imported.
    is_known = facts.verifier in VERIFIERS
    if facts.verifier and not is_known:
        logger.warning(
            "%s was judged by %s: here its answers are compared as data.verifier=numeric does", folder, facts.verifier
        )
    data = {"tokenizer": str(folder)} | ({"verifier": facts.verifier} if is_known else {})
    saved |= {"model": _model(folder, facts, method), "data": data}
    try:
        config = ml_collections.ConfigDict(plain(resolve_plain(of_this_version(saved))))
    except UserError as error:
        raise UserError(f"{folder / THINKING_FILE}: {error}") from None
    config.workdir = str(folder)
    return config


def exported_parameters(run: Run, folder: Path) -> Tree:
    """The parameters of an exported folder, in place on the run's devices: the model's, and what makes its latents.

    Raises:
        UserError: a file is missing or damaged, or does not fit the model.
    """
    if (said := read_thinking(folder).separator_id) != run.tokenizer.separator_id:
        raise UserError(
            f"{folder / THINKING_FILE} has separator_id {said}, and the separator of its tokenizer is "
            f"{run.tokenizer.separator_id}: the files do not belong together"
        )
    (stage,) = run.config.stage_names
    own, method, initial = {}, run.method(stage), run.initial_parameters()
    if method.draws_latents:
        own["latent_head"] = load_latent_head(folder)[0]
    elif method.calibrates:  # to the embedding that the stage started from, not to the one that it trained
        own["latent_head"] = initial["latent_head"] | {"embed_std": np.float32(read_embed_std(folder))}
    for name, module in method.modules.items():
        if name not in run.shapes:  # for training alone
            continue
        if module.load is None:
            raise UserError(f"{folder}: its method has no way to read {name!r} from a folder: load the run instead")
        own[name] = module.load(module.settings, folder)
    shapes = {name: run.shapes[name] for name in own}
    _check_shapes(own, shapes, folder)
    placed = put(own, jax.tree.map(lambda leaf: leaf.sharding, shapes))
    return initial | placed


def _model(folder: Path, facts: ThinkingFacts, method: type[Method]) -> dict[str, Any]:
    """The group of settings `model`: the folder is the base, or holds adapters for one."""
    # Every model has a latent head; one that nobody reads is as small as can be.
    model: dict[str, Any] = {"base": str(folder), "latent_head": {"intermediate_size": 1}}
    if method().draws_latents:
        model["latent_head"] = plain(read_head_config(folder))
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        lora = read_adapter_config(folder)
        targets = ",".join(lora.targets)
        model["lora"] = {"rank": lora.rank, "alpha": lora.alpha, "targets": targets, "init_from": str(folder)}
        model["base"] = _base_of(folder, facts)
    return model


def _base_of(folder: Path, facts: ThinkingFacts) -> str:
    """The base of a folder's adapters: where PEFT finds it, if that is a place on this machine, else as the run said.

    The run's name may be one that was looked for in the folder of its export.
    """
    recorded = read_json_object(folder / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
    is_here = isinstance(recorded, str) and os.path.isabs(recorded) and os.path.exists(recorded)
    return recorded if is_here else facts.base


def _settings_of_before(facts: ThinkingFacts, folder: Path) -> dict[str, Any]:
    """The settings that decoding reads, where a folder does not say its method's."""
    if facts.method == "colar":
        return {"speeds": ",".join(speed for speed in facts.speeds if speed != "auto")}
    if facts.method == "coconut":
        return {"num_stages": 1, "latents_per_stage": facts.max_thoughts}
    if facts.method == "codi":
        settings = {"num_latents": facts.max_thoughts}
        if (folder / PROJECTION_CONFIG_FILE).is_file():
            sizes = projection_sizes(folder)
            settings |= {"projection_size": sizes.intermediate_size, "projection_layer_norm": sizes.layer_norm}
        return settings
    return {}


def _check_shapes(found: Tree, expected: Tree, folder: Path) -> None:
    """UserError where what makes the latents does not fit the model beside it."""
    ours, theirs = (dict(jax.tree.leaves_with_path(tree)) for tree in (expected, found))
    for path in ours.keys() | theirs.keys():
        shapes = [np.shape(tree[path]) if path in tree else "missing" for tree in (ours, theirs)]
        if shapes[0] != shapes[1]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"{folder}: {name} is {shapes[1]}, and the model's is {shapes[0]}: the files do not fit")

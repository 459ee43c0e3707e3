"""What all stages of a run share, made from its config: data, tokenizer, model, devices, and the run's folder."""

import dataclasses
import json
import logging
import os
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from colar_jax.config import Config, nearest, parse_speeds, parse_targets
from colar_jax.data.encoding import EncodedProblems, encode
from colar_jax.data.prompts import AUTO_SPEED, Speed
from colar_jax.data.splits import load_splits
from colar_jax.data.tokenizers import Tokenizer, load_tokenizer
from colar_jax.evaluation.evaluator import Evaluator
from colar_jax.methods import METHODS, Method
from colar_jax.model import peft, reasoner
from colar_jax.model.base_model import base_folder, base_identity, open_base
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.lora import cast_base, joined, lora_config, split_base
from colar_jax.model.presets import PRESETS, LlamaConfig
from colar_jax.model.projection import ProjectionConfig
from colar_jax.parallel.mesh import REPLICATED, make_mesh, replicate
from colar_jax.training.state import Tree

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
TOKENIZER_FOLDER = "tokenizer"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run ready to train or to be evaluated."""

    config: Config
    workdir: Path
    mesh: jax.sharding.Mesh
    tokenizer: Tokenizer
    graph: object  # the model's, from reasoner.build
    initial: Tree  # its parameters before any stage
    base_identity: dict[str, str]  # of the base model; empty without one
    train: EncodedProblems
    val: EncodedProblems
    tests: dict[str, EncodedProblems]

    def method(self, stage_name: str) -> Method:
        """The method of a stage, thinking as it is trained there."""
        stage = self.config.stages[stage_name]
        return METHODS[stage.method].at(stage)

    def trained_speeds(self, stage_name: str) -> tuple[Speed, ...]:
        """The speeds that a stage's prompts say in training: what it is validated at."""
        return self.method(stage_name).recipe(self.config.stages[stage_name]).prompt_speeds

    def decode_speeds(self, stage_name: str) -> tuple[Speed, ...]:
        """The speeds to decode a stage at: those it was trained with, unless the config asks for others."""
        return _decode_speeds(self.config, stage_name)

    def seed_of(self, stage_name: str) -> int:
        """A seed of its own for each stage of a run."""
        return zlib.crc32(f"{self.config.seed}/{stage_name}".encode())

    def evaluator(self, stage_name: str, sets: list[EncodedProblems], speeds: tuple[Speed, ...]) -> Evaluator:
        """A decoder of these sets, at these speeds, for a stage's method."""
        config = self.config
        return Evaluator(
            self.graph,
            self.method(stage_name),
            self.tokenizer,
            config.decode,
            config.model,
            self.mesh,
            batch_size=min(config.eval.batch_size, max(len(encoded) for encoded in sets)),
            sets=sets,
            speeds=speeds,
            verifier=config.data.verifier,
        )


def prepare(config: Config) -> Run:
    """Load data, tokenizer and model: the base model's weights, or random ones.

    Raises:
        ValueError: a name that does not exist, data that cannot be used, or a base model that we cannot compute.
    """
    _check_names(config)
    folder = base_folder(config.model.base) if config.model.base else None
    tokenizer = load_tokenizer(str(folder) if config.uses_tokenizer_of_base else config.data.tokenizer)
    splits = load_splits(config.data)
    speeds = _all_speeds(config)
    mesh = make_mesh()
    graph, initial = _make_model(config, folder, tokenizer, mesh)
    num_parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(initial))
    logger.info("model: %s, %.2fM parameters, %d devices", model_name(config), num_parameters / 1e6, jax.device_count())
    if config.model.lora.rank:
        num_own = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(split_base(initial)[0]))
        targets = ", ".join(parse_targets(config.model.lora.targets))
        logger.info("adapters on %s: %.2fM parameters with the latent head", targets, num_own / 1e6)
    return Run(
        config=config,
        workdir=Path(config.workdir).expanduser(),
        mesh=mesh,
        tokenizer=tokenizer,
        graph=graph,
        initial=initial,
        base_identity=base_identity(folder) if folder else {},
        train=encode(splits.train, tokenizer, speeds),
        val=encode(splits.val, tokenizer, speeds),
        tests={name: encode(problems, tokenizer, speeds) for name, problems in splits.tests.items()},
    )


def model_name(config: Config) -> str:
    """What to call the model of a run: its base, or its preset."""
    return config.model.base or config.model.preset


def _make_model(config: Config, folder: Path | None, tokenizer: Tokenizer, mesh) -> tuple[object, Tree]:
    """Graph and parameters of the model, in place on the mesh."""
    settings = config.model.latent_head

    def head(llama: LlamaConfig) -> LatentHeadConfig:
        return LatentHeadConfig(
            intermediate_size=settings.intermediate_size or llama.hidden_size,
            deterministic=settings.deterministic,
            min_log_std=settings.min_log_std,
            max_log_std=settings.max_log_std,
        )

    size = config.model.projection.size
    projection = ProjectionConfig(size, config.model.projection.layer_norm) if size else None
    lora, base_dtype = lora_config(config.model.lora), jnp.dtype(config.model.base_dtype)
    if folder is None:
        llama = dataclasses.replace(PRESETS[config.model.preset], vocab_size=tokenizer.num_tokens)
        graph, parameters = reasoner.build(llama, head(llama), config.seed, lora, projection)
        # Calibrated anew, to what is held: a later stage, which measures that, finds the same.
        parameters = reasoner.calibrate(cast_base(parameters, base_dtype))
    else:
        base = open_base(folder, num_tokens=tokenizer.num_tokens, pad_id=tokenizer.pad_id)
        llama = base.config
        loaded = base.load(NamedSharding(mesh, REPLICATED), base_dtype)
        graph, parameters = reasoner.build_on(llama, head(llama), loaded, config.seed, lora, projection)
    if config.model.lora.init_from:
        adapters = peft.read_adapter(Path(config.model.lora.init_from).expanduser(), llama, expected=lora)[1]
        parameters = joined(parameters, adapters)
    return graph, replicate(parameters, mesh)


def write_config(run: Run) -> None:
    """Save the resolved config and the tokenizer with the run, so that its folder says all there is to know."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    path = run.workdir / CONFIG_FILE
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(dataclasses.asdict(run.config), indent=2) + "\n")
    os.replace(unfinished, path)
    run.tokenizer.save(run.workdir / TOKENIZER_FOLDER)


def _check_names(config: Config) -> None:
    for name, stage in config.stages.items():
        if stage.method not in METHODS:
            known = ", ".join(METHODS)
            raise ValueError(
                f"stages.{name}.method={stage.method!r} is none of {known}.{nearest(stage.method, METHODS)}"
            )
    if not config.model.base and config.model.preset not in PRESETS:
        preset = config.model.preset
        raise ValueError(f"model.preset={preset!r} is none of {', '.join(PRESETS)}.{nearest(preset, PRESETS)}")


def _decode_speeds(config: Config, stage_name: str) -> tuple[Speed, ...]:
    stage = config.stages[stage_name]
    method = METHODS[stage.method]
    recipe = method.recipe(stage)
    if not method.has_speed:
        return recipe.prompt_speeds[:1]
    return parse_speeds(config.eval.speeds) or recipe.prompt_speeds


def _all_speeds(config: Config) -> tuple[Speed, ...]:
    """Every speed that any prompt of the run may say, in a fixed order."""
    speeds: dict[Speed, None] = {}
    for name, stage in config.stages.items():
        speeds |= dict.fromkeys(METHODS[stage.method].recipe(stage).prompt_speeds)
        speeds |= dict.fromkeys(_decode_speeds(config, name))
    return tuple(sorted(speeds, key=lambda speed: (speed == AUTO_SPEED, speed if speed != AUTO_SPEED else 0)))

"""What all stages of a run share, made from its config: data, tokenizer, model, devices, and the run's folder."""

import dataclasses
import functools
import logging
import math
import zlib
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from colar_jax.config import Config, DecodeConfig, parse_targets
from colar_jax.data.answers import check_verifier, find_verifier
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.fingerprint import problems_hash
from colar_jax.data.loader import Batches
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import AUTO_SPEED, Speed
from colar_jax.data.readable import DecodeRoom, encode_readable
from colar_jax.data.recipe import Recipe
from colar_jax.data.splits import Splits, load_splits, load_tests
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.engine import Engine
from colar_jax.evaluation.decode_program import Programs
from colar_jax.evaluation.evaluator import Evaluator, Workload
from colar_jax.evaluation.inspector import Inspector
from colar_jax.evaluation.judge import Judge
from colar_jax.freed_memory import keep_freed_memory
from colar_jax.methods import Method, find_method
from colar_jax.methods.method import Thinking
from colar_jax.model.lora import split_base
from colar_jax.parallel.hosts import require_32_bits, require_devices
from colar_jax.parallel.sharding import LogicalAxes, logical_axes
from colar_jax.rl.reward_list import check_credit
from colar_jax.runs.asked_speeds import decode_speeds, said_speeds
from colar_jax.runs.run_model import RunModel, make_model, model_name
from colar_jax.runs.run_tokenizer import run_tokenizer
from colar_jax.runs.trained_speeds import trained_recipes
from colar_jax.training.state import Tree
from colar_jax.weights.base_model import base_folder, base_identity
from colar_jax.weights.hf_config import refuse_without_config

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run ready to train or to be evaluated."""

    config: Config
    workdir: Path
    model: RunModel  # what it is; its weights are loaded where a stage starts
    tokenizer: Tokenizer
    base_identity: dict[str, str]  # of the base model; empty without one
    speeds: tuple[Speed, ...]  # that any prompt may say
    train_problems: list[Problem]
    val: EncodedProblems
    tests: dict[str, EncodedProblems]

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices of the run."""
        return self.model.mesh

    @property
    def graph(self) -> object:
        """The model without its parameters (`reasoner.abstract`)."""
        return self.model.graph

    @property
    def shapes(self) -> Tree:
        """The parameters as `jax.ShapeDtypeStruct`s with shardings."""
        return self.model.shapes

    @functools.cached_property
    def logical_axes(self) -> LogicalAxes:
        """What the model says of the axes of its parameters."""
        return logical_axes(self.graph, self.shapes)

    def initial_parameters(self) -> Tree:
        """The parameters before any stage: random ones, or the base model's. Made anew at each call."""
        return self.model.initial_parameters()

    @functools.cached_property
    def train(self) -> EncodedProblems:
        """The training set, encoded when it is first asked for: evaluation does without."""
        room = _room(self.config)
        return encode_readable("train", self.train_problems, self.tokenizer, self.speeds, self.config.data, room)

    @functools.cached_property
    def loaders(self) -> dict[str, Batches]:
        """Batches of stages that are still to be trained, where they are planned already (`stage_batches`)."""
        return {}

    @functools.cached_property
    def train_problems_hash(self) -> str:
        """What the training problems are, in their order: a checkpoint belongs to them."""
        return problems_hash(self.train_problems)

    @functools.cached_property
    def engine(self) -> Engine:
        """What compiles and places, for all stages."""
        return Engine(self.graph, self.mesh, self.config.model.compute, self.config.parallel)

    @functools.cached_property
    def judge(self) -> Judge:
        """What says whether an answer is right."""
        # Found when it judges: what only answers needs none.
        name = self.config.data.verifier
        return Judge(self.tokenizer, lambda prediction, answer: find_verifier(name)(prediction, answer))

    def method(self, stage_name: str) -> Method:
        """The method of a stage, with its settings there."""
        return self.config.stages[stage_name].bound_method

    def thinking(self, stage_name: str, *, greedy: bool = True) -> Thinking:
        """How a stage thinks under the run's settings of decoding."""
        return self.method(stage_name).thinking(self.config.decode, self.tokenizer.separator_id, greedy=greedy)

    def trained_speeds(self, stage_name: str) -> tuple[Speed, ...]:
        """The speeds that a stage trains (of ranges some): what it is validated at."""
        return self.method(stage_name).recipe.trained_speeds

    def was_trained(self, stage_name: str, speed: Speed) -> bool:
        """Whether a stage was trained at a speed, or one of this run whose latents it improves with rewards."""
        return any(recipe.was_trained(speed) for recipe in self.trained_recipes(stage_name))

    def trained_recipes(self, stage_name: str) -> tuple[Recipe, ...]:
        """`trained_speeds.trained_recipes`, whose checkpoints are opened once."""
        if stage_name not in self._recipes:
            self._recipes[stage_name] = tuple(trained_recipes(self.config, stage_name))
        return self._recipes[stage_name]

    @functools.cached_property
    def _recipes(self) -> dict[str, tuple[Recipe, ...]]:
        return {}

    def decode_speeds(self, stage_name: str) -> tuple[Speed, ...]:
        """The speeds to decode a stage at: those it was trained with, unless the config asks for others."""
        return decode_speeds(self.config, stage_name)

    def seed_of(self, stage_name: str) -> int:
        """A seed of its own for each stage of a run."""
        return zlib.crc32(f"{self.config.seed}/{stage_name}".encode())

    def evaluator(
        self,
        stage_name: str,
        sets: list[EncodedProblems],
        speeds: tuple[Speed, ...],
        decode: DecodeConfig | None = None,
        programs: Programs | None = None,
    ) -> Evaluator:
        """A decoder of these sets, at these speeds, for a stage's method; `decode` unless as the config has it."""
        config = self.config
        return Evaluator(
            self.engine,
            self.method(stage_name),
            self.judge,
            config.decode if decode is None else decode,
            Workload(sets, speeds, min(config.eval.batch_size, max(len(encoded) for encoded in sets))),
            programs,
        )

    def inspector(self, stage_name: str) -> Inspector:
        """What looks into the thoughts of a stage's method."""
        config = self.config
        return Inspector(
            self.engine, self.method(stage_name), self.judge, config.decode, batch_size=config.eval.batch_size
        )


def prepare(config: Config, *, sets: Literal["all", "tests", "none"] = "all", for_training: bool = True) -> Run:
    """Load data and tokenizer, and find out what the model is; its weights are not loaded yet.

    Args:
        sets: which problems are loaded; the others are empty. Evaluating needs the tests, exporting and asking none.
        for_training: whether the model has the modules that nothing but training reads.

    Raises:
        UserError: a name that does not exist, data that cannot be used, or a base model that we cannot compute.
    """
    _check_names(config, judges=sets != "none")
    require_devices()
    require_32_bits()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
        if config.model.dtype == "bfloat16":
            logger.warning("bfloat16 is many times slower than float32 on a CPU: set --config.model.dtype=float32")
    folder = base_folder(config.model.base) if config.model.base else None
    if folder:  # before its tokenizer: who has named no model is not told to name a tokenizer
        refuse_without_config(folder)
    tokenizer = run_tokenizer(config, folder)
    splits = _LOAD[sets](config.data)
    speeds, room = said_speeds(config), _room(config)
    model = make_model(config, folder, tokenizer, for_training=for_training)
    num_parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model.shapes))
    devices = "1 device" if jax.device_count() == 1 else f"{jax.device_count()} devices"
    logger.info("model: %s, %.2fM parameters, %s", model_name(config), num_parameters / 1e6, devices)
    if config.model.lora.rank:
        num_own = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(split_base(model.shapes)[0]))
        targets = ", ".join(parse_targets(config.model.lora.targets))
        logger.info("adapters on %s: %.2fM parameters with the latent head", targets, num_own / 1e6)
    return Run(
        config=config,
        workdir=Path(config.workdir).expanduser(),
        model=model,
        tokenizer=tokenizer,
        base_identity=base_identity(folder) if folder else {},
        speeds=speeds,
        train_problems=splits.train,
        val=encode_readable("val", splits.val, tokenizer, speeds, config.data, room),
        tests={
            name: encode_readable(name, problems, tokenizer, speeds, config.data, room)
            for name, problems in splits.tests.items()
        },
    )


_LOAD = {
    "all": load_splits,
    "tests": lambda data: Splits([], [], load_tests(data)),
    "none": lambda data: Splits([], [], {}),
}


def _check_names(config: Config, *, judges: bool) -> None:
    check_verifier(config.data.verifier, judges=judges)
    for name, stage in config.stages.items():
        find_method(stage.method, f"stages.{name}.method")
        if stage.trainer == "grpo":
            check_credit(stage.rl)


def _room(config: Config) -> DecodeRoom:
    """What decodes of the run have room for: words where a method thinks in words, latents where it chooses a speed."""
    words = latents = 0
    slowest = math.inf
    for name in config.stage_names:
        method = config.stages[name].bound_method
        thinking = method.thinking(config.decode, 0, greedy=True)
        if thinking.in_words:
            words = max(words, thinking.max_thoughts)
        elif method.has_speed:
            latents = max(latents, thinking.max_thoughts)
            slowest = min(slowest, *(speed for speed in decode_speeds(config, name) if speed != AUTO_SPEED), math.inf)
    return DecodeRoom(config.decode.max_answer_tokens, words, latents, 1.0 if slowest == math.inf else slowest)

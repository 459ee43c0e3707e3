"""Our side of the speed comparisons: the package's own training step and decoder, on given token ids."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colar_jax.config import Compute, OptimizerConfig, StageConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Loader, prefetch
from colar_jax.data.packing import Batch
from colar_jax.data.problems import Problem
from colar_jax.data.prompts import speed_text
from colar_jax.decoding.decoder import Loop, answering_loop, decode, thinking_loop
from colar_jax.decoding.loops import DecodeLimits
from colar_jax.decoding.prefill import Feeder, prefill
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import latent_thinker
from colar_jax.engine import Engine
from colar_jax.methods.colar import Colar
from colar_jax.model import presets, reasoner
from colar_jax.model.execution import Execution
from colar_jax.model.flash_attention import choose_attention
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.lora import LoraConfig, cast_base
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, partition
from colar_jax.training.step import make_train_step

SEPARATOR, EOS = 0, 1
COMPUTE = Compute(scan_layers=False)


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that is measured, how it is held and how it is computed."""

    llama: LlamaConfig
    latent_intermediate: int
    compute: Compute = COMPUTE
    lora: LoraConfig | None = None  # then only adapters and latent head are trained
    held: str = "float32"  # dtype of the Llama's weights where they are not trained: beside adapters, and in a decode

    @property
    def execution(self) -> Execution:
        """How one device computes it, with the platform's own attention."""
        platform = jax.local_devices()[0].platform
        return Execution.of(self.compute, attention=choose_attention("auto", self.compute.dtype, platform))


# The model of the comparisons on a CPU (speed.py).
MICRO = Subject(presets.PRESETS["micro"], latent_intermediate=384)


def build(subject: Subject, modules=reasoner.NONE_OF_ITS_OWN):
    """A model with random weights: graph and parameters."""
    head = LatentHeadConfig(subject.latent_intermediate)
    graph, parameters = reasoner.build(subject.llama, head, 0, subject.lora, modules)
    held = jnp.dtype(subject.held)
    if subject.lora is not None:
        return graph, cast_base(parameters, held)
    return graph, parameters | {"llama": jax.tree.map(lambda leaf: leaf.astype(held), parameters["llama"])}


def encode(problems: list[tuple[list[int], list[int], list[int]]], speeds: tuple[float, ...]) -> EncodedProblems:
    """Problems that are token ids already; their prompts do not depend on the speed."""

    def arrays(column: int) -> tuple[np.ndarray, ...]:
        return tuple(np.array(problem[column], np.int32) for problem in problems)

    tails = {speed_text(speed): np.zeros(0, np.int32) for speed in speeds}
    texts = (Problem("", (), ""),) * len(problems)
    return EncodedProblems(texts, arrays(0), tails, arrays(1), arrays(2), SEPARATOR, EOS)


def training(
    problems,
    speeds: tuple[float, ...],
    rows: int,
    row_positions: int,
    subject: Subject = MICRO,
    *,
    steps: int = 1,
    matmul_precision: str = "default",
) -> Callable[[], int]:
    """A function that takes one CoLaR training step (host work included) and returns the number of its examples.

    With `steps` it takes so many, as a run does: a thread makes the batches, and no step is waited for but the last.
    Its `first_batch` is what it begins with.
    """
    stage = StageConfig(
        method="colar",
        rows=rows,
        row_positions=row_positions,
        matmul_precision=matmul_precision,
        bound_method=Colar(speeds=",".join(speed_text(speed) for speed in speeds)),
    )
    method = stage.bound_method
    loader = Loader(encode(problems, speeds), method.recipe, seed=0, rows=rows, row_positions=row_positions)
    graph, parameters = build(subject)
    trainable, frozen = partition(parameters, ("llama", "latent_head"))
    mesh = make_mesh()
    optimizer = make_optimizer(OptimizerConfig(schedule="constant"), 1)
    step = make_train_step(Engine(graph, mesh, subject.compute), method, stage, optimizer)
    state = replicate(initial_state(trainable, optimizer), mesh)
    key, batches = jax.random.key(0), _batches(loader, ahead=steps > 1)

    def run() -> int:
        nonlocal state
        examples = 0
        for batch in itertools.islice(batches, steps):
            state, metrics = step(state, frozen, put_rows(batch, mesh), key)
            examples += int(batch.segment_ids_BS.max(axis=1).sum())
        jax.block_until_ready(metrics)
        return examples

    run.first_batch = loader.batch(0)
    return run


def _batches(loader: Loader, *, ahead: bool) -> Iterator[Batch]:
    return prefetch(loader, 0, sys.maxsize) if ahead else map(loader.batch, itertools.count())


def generation(
    prompts: list[list[int]],
    max_latents: int,
    answer_tokens: int,
    subject: Subject = MICRO,
    *,
    num_rollouts: int = 1,
    counted: bool = False,
) -> Callable[[], int]:
    """A function that decodes all prompts to the limits (no early end) and returns how many there are.

    Args:
        num_rollouts: of each prompt, which is prefilled once.
        counted: loops of a known number of rounds, which XLA may unroll, instead of those that end with the last one.
    """
    graph, parameters = build(subject)
    thinker = latent_thinker(SEPARATOR, latent_temperature=1.0, stop_temperature=1.0)

    def think(model, hidden_BD, keys_B):
        thought = thinker(model, hidden_BD, keys_B)  # the decision is drawn, and ignored
        return dataclasses.replace(thought, stop_B=jnp.zeros_like(thought.stop_B))

    limits = DecodeLimits(
        max_thoughts=max_latents, min_thoughts=1, max_answer_tokens=answer_tokens, greedy=False,
        answer_temperature=1.0, answer_top_p=0.9, separator_id=SEPARATOR, eos_id=-1, num_rollouts=num_rollouts,
    )  # fmt: skip
    prompts = [np.array([*prompt, SEPARATOR], np.int32) for prompt in prompts]
    packed = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))

    way = decode_counted if counted else decode
    execution, count, total = subject.execution, 0, len(prompts) * num_rollouts

    @jax.jit
    def program(parameters, packed, keys_B):
        return way(nnx.merge(graph, parameters), packed, keys_B, think, limits, execution)

    def run() -> int:
        nonlocal count
        count += 1
        decoded = program(parameters, packed, jax.random.split(jax.random.key(count), total))
        assert int(decoded.num_thoughts_B.min()) == max_latents
        return total

    run.prompt_positions = sum(map(len, prompts))
    run.lowered = lambda: program.lower(parameters, packed, jax.random.split(jax.random.key(0), total))
    return run


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CountedDecode:
    """What `decode_counted` did."""

    num_thoughts_B: jax.Array
    answer_ids_BA: jax.Array


def decode_counted(model, prompts, keys_B, think, limits: DecodeLimits, execution: Execution) -> CountedDecode:
    """The decoder's two loops, each run to its limit: right only where nothing ends early."""

    def rounds(loop: Loop, count: int):
        return jax.lax.fori_loop(0, count, lambda _, state: loop.step(state), loop.start)

    feeder = Feeder.of(model, prefill(model, prompts, limits, execution), execution)
    thinking = rounds(thinking_loop(feeder, keys_B, think, limits), limits.max_thoughts)
    answering = answering_loop(feeder, thinking.suffix, feeder.positions_of(thinking.num_thoughts_B), keys_B, limits)
    answering = rounds(answering, limits.max_answer_tokens - 1)
    return CountedDecode(thinking.num_thoughts_B, answering.ids_BA)

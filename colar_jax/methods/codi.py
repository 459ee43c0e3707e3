"""CODI: one model learns a chain of thought, and latents that lead to the same hidden states (arXiv 2502.21074).

    z_1 = f(h(question ###)),  z_{i+1} = f(h(z_i))                             f: an MLP of `projection_size`
    total = alpha * CE(steps, answer) + beta * CE(answer after latents) + gamma * mean over layers of
            smooth L1(student, teacher) / std(teacher), at the token before the answer; no gradient into the teacher

CoLaR's authors call it "distill". The question is computed once, for teacher and student.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.loader import Recipe
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.losses import gather_positions, masked_sum
from colar_jax.methods.method import Method, Thinking, language_loss
from colar_jax.methods.thinking import thought_chain, thought_rows
from colar_jax.methods.thinking.schedule import Constant, Phase
from colar_jax.methods.thinking.staged_loader import Room, StagedLoader
from colar_jax.methods.thinking.thought_rows import ThoughtBatch, ThoughtExample, ThoughtShape
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.projection import Projection, ProjectionConfig
from colar_jax.model.reasoner import OwnModule, Reasoner
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import require
from colar_jax.weights.projection_file import save_projection

PROJECTION = "projection"  # the name of its own part of the model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodiCounts:
    """What a step supervises: the teacher's labels, the student's, and examples."""

    teacher: jax.Array
    student: jax.Array
    examples: jax.Array


class _Rows:
    """Question and chain of thought in the trunk; the answer once more in the tail."""

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        questions_N, answers_N = encoded.prompt_lengths(AUTO_SPEED)[examples_N], encoded.answer_lengths[examples_N]
        return np.stack([questions_N, kept_N + 1 + answers_N, answers_N], axis=1)

    def fill(self, encoded: EncodedProblems, rows, room: Room, phase: Phase) -> ThoughtBatch:
        question, teacher, tail = room.positions
        shape = ThoughtShape(question + teacher, supervised=teacher, tail=tail, examples=room.examples)
        examples = [[_example(encoded, example) for example, _ in row] for row in rows]
        return thought_rows.fill_thought_rows(examples, shape, phase.num_latents)


def _example(encoded: EncodedProblems, example: int) -> ThoughtExample:
    separator, answer_ids = np.array([encoded.separator_id], np.int32), encoded.answers[example]
    return ThoughtExample(
        prompt_ids=np.append(encoded.prompt(example, AUTO_SPEED), separator),
        teacher_ids=np.concatenate([encoded.steps[example], separator, answer_ids]),
        tail_ids=np.append(separator, answer_ids),
        before_answer=encoded.shared_answer_tokens(example),
        num_answer=len(answer_ids),
    )


def count_supervised(batch: ThoughtBatch) -> CodiCounts:
    """What this batch supervises."""
    return CodiCounts(
        teacher=jnp.sum(batch.trunk_labels_BM >= 0),
        student=jnp.sum(batch.first_labels_BE >= 0) + jnp.sum(batch.tail_labels_BT >= 0),
        examples=jnp.sum(batch.question_lengths_BE > 0),
    )


def codi_loss(model, batch: ThoughtBatch, keys_B, counts: CodiCounts, codi: "Codi", compute: Execution):
    """The part's share of the three losses; the chain of thought is one packed pass, as CoT's own."""
    own = count_supervised(batch)
    with jax.named_scope("teacher"):
        trunk = thought_chain.run_trunk(model, batch, compute, keys_B, probes=True)
        teacher_loss, _ = language_loss(model, trunk.supervised_hidden_BMD, batch.trunk_labels_BM, compute)
    with jax.named_scope("student"):
        latents = thought_chain.run_latents(model, trunk, batch, codi.num_latents, codi.project, compute, keys_B)
        hidden_BTD, probed = thought_chain.run_tail(
            model, trunk, latents, batch, compute, keys_B,
            probe=lambda x_BTD: gather_positions(x_BTD, batch.matched_tail_BE),
        )  # fmt: skip
        student_loss, right = thought_chain.tail_loss(model, latents, hidden_BTD, batch, compute)
    teacher_LBED, student_LBED = (_states(model, layers) for layers in (trunk.probed, probed))
    distill_BE = distance(student_LBED, teacher_LBED, normalise=codi.normalise)
    distill = masked_sum(distill_BE, batch.question_lengths_BE > 0)
    loss = (
        codi.teacher_weight * teacher_loss / counts.teacher
        + codi.student_weight * student_loss / counts.student
        + codi.distill_weight * distill / counts.examples
    )
    metrics = {
        "teacher_cross_entropy": Metric(teacher_loss, own.teacher),
        "cross_entropy": Metric(student_loss, own.student),
        "label_accuracy": Metric(right, own.student),
        "distill_loss": Metric(distill, own.examples),
    }
    return loss, metrics


def _states(model: Reasoner, layers: tuple):
    """Hidden states of all layers, `[L, B, E, D]` in float32; the last layer's after the final norm."""
    states = jnp.stack([*layers[:-1], model.llama.final_norm(layers[-1])])
    return states.astype(jnp.float32)


def distance(student_LBED, teacher_LBED, *, normalise: bool):
    """Smooth L1 between the states of each example, averaged over dimensions and layers: `[B, E]`.

    The paper divides by the teacher's standard deviation over a batch; here it is the example's own, over dimensions,
    so that a loss does not depend on the batch an example is in, or on how that is split over devices.
    """
    teacher_LBED = jax.lax.stop_gradient(teacher_LBED)
    error_LBED = jnp.abs(student_LBED - teacher_LBED)
    smooth_LBED = jnp.where(error_LBED < 1, 0.5 * jnp.square(error_LBED), error_LBED - 0.5)
    distance_LBE = jnp.mean(smooth_LBED, axis=-1)
    if normalise:
        # Padding has the same state everywhere, and so no spread; the floor keeps it finite.
        distance_LBE = distance_LBE / jnp.maximum(jnp.std(teacher_LBED, axis=-1, ddof=1), 1e-6)
    return jnp.mean(distance_LBE, axis=0)


@dataclasses.dataclass(frozen=True)
class Codi(Method):
    """Self-distillation of a chain of thought into latents (arXiv 2502.21074)."""

    group = "codi"
    trains = ("llama", PROJECTION)
    old_names = {
        "model.projection.size": "projection_size",
        "model.projection.layer_norm": "projection_layer_norm",
    }

    num_latents: int = 6  # thought before the answer
    teacher_weight: float = 1.0  # alpha, of the chain of thought's cross-entropy
    student_weight: float = 1.0  # beta, of the answer's after the latents
    distill_weight: float = 20.0  # gamma
    normalise: bool = True  # each layer's distance in units of the teacher's standard deviation there
    projection_size: int = 0  # hidden size of the MLP that latents go through; 0: a hidden state is fed as it is
    projection_layer_norm: bool = True  # at the MLP's end, as in the paper; CoLaR's authors have none

    def __post_init__(self):
        require(self.num_latents > 0, f"codi.num_latents={self.num_latents} must be positive")
        for field in ("teacher_weight", "student_weight", "distill_weight"):
            require(getattr(self, field) >= 0, f"codi.{field}={getattr(self, field)} is negative")
        require(self.projection_size >= 0, f"codi.projection_size={self.projection_size} is negative: 0 means none")

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The projection, where it has a size."""
        settings = ProjectionConfig(self.projection_size, self.projection_layer_norm)
        return {PROJECTION: OwnModule(Projection, settings, save_projection)} if self.projection_size else {}

    def project(self, model: Reasoner, hidden):
        """A hidden state as the next input: through the projection, if there is one."""
        return model.projection(hidden) if self.projection_size else hidden

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> StagedLoader:
        schedule = Constant(Phase(removed=0, num_latents=self.num_latents))
        return StagedLoader(encoded, schedule, _Rows(), seed=seed, rows=rows, row_positions=row_positions)

    def count(self, batch: ThoughtBatch) -> CodiCounts:
        return count_supervised(batch)

    def objective(self, model, batch: ThoughtBatch, keys_B, counts: CodiCounts, compute: Execution):
        return codi_loss(model, batch, keys_B, counts, self, compute)

    def thinking(self, decode: DecodeConfig, separator_id: int, dtype: jnp.dtype, greedy: bool) -> Thinking:
        return thought_chain.fixed_thinking(
            self.num_latents, self.project, way=PROJECTION if self.projection_size else "hidden_states"
        )

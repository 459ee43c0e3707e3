"""CODI: one model learns a chain of thought, and latents that lead to the same hidden states (arXiv 2502.21074).

    z_1 = f(h(question ###)),  z_{i+1} = f(h(z_i))                             f: an MLP of `projection_size`
    total = alpha * CE(steps, answer) + beta * CE(answer after latents) + gamma * mean over layers of
            smooth L1(student, teacher) / std(teacher), where the answer is predicted; no gradient into the teacher

The teacher's chain leaves out its last step, which says the answer: the teacher would copy it. CoLaR's authors call the
method "distill". The question is computed once, for teacher and student.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.losses import gather_positions, masked_sum
from colar_jax.methods.method import Method, Thinking, language_loss
from colar_jax.methods.thinking import thought_chain, thought_rows
from colar_jax.methods.thinking.hidden_distillation import SPREADS, distance, hidden_states
from colar_jax.methods.thinking.schedule import Constant, Phase
from colar_jax.methods.thinking.staged_loader import Dealt, Form, Room, StagedLoader
from colar_jax.methods.thinking.thought_chain import Latents, Trunk
from colar_jax.methods.thinking.thought_rows import ThoughtBatch, ThoughtExample, ThoughtShape
from colar_jax.metrics import Metric
from colar_jax.model.execution import Execution
from colar_jax.model.projection import Projection, ProjectionConfig
from colar_jax.model.reasoner import OwnModule, Reasoner
from colar_jax.settings import DecodeConfig
from colar_jax.settings.checks import one_of, require
from colar_jax.settings.on_resume import binding
from colar_jax.weights.projection_file import load_projection, save_projection

PROJECTION = "projection"  # the name of its own part of the model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodiCounts:
    """What a step supervises: the teacher's labels, the student's, and examples."""

    teacher: jax.Array
    student: jax.Array
    examples: jax.Array


@dataclasses.dataclass(frozen=True)
class CodiRows:
    """Question and chain of thought in the trunk; the answer once more in the tail."""

    last_step: bool  # whether the teacher has it
    matched: str

    def sizes(self, encoded: EncodedProblems, kept_N: np.ndarray, examples_N=slice(None)) -> np.ndarray:
        questions_N, answers_N = encoded.prompt_lengths(AUTO_SPEED)[examples_N], encoded.answer_lengths[examples_N]
        chains_N = kept_N if self.last_step else encoded.lengths_without_last_step[examples_N]
        return np.stack([questions_N, chains_N + 1 + answers_N, answers_N], axis=1)

    def fill(self, encoded: EncodedProblems, rows: list[list[Dealt]], room: Room) -> ThoughtBatch:
        question, teacher, tail = room.positions
        shape = ThoughtShape(question + teacher, supervised=teacher, tail=tail, examples=room.examples)
        return thought_rows.fill_thought_rows([[self._example(encoded, one) for one in row] for row in rows], shape)

    def _example(self, encoded: EncodedProblems, dealt: Dealt) -> ThoughtExample:
        example = dealt.example
        separator, answer_ids = np.array([encoded.separator_id], np.int32), encoded.answers[example]
        chain_ids = encoded.steps[example]
        if not self.last_step:
            chain_ids = chain_ids[: encoded.lengths_without_last_step[example]]
        before = encoded.tokens_before_digit if self.matched == "digit" else encoded.shared_answer_tokens
        return ThoughtExample(
            prompt_ids=np.append(encoded.prompt(example, AUTO_SPEED), separator),
            teacher_ids=np.concatenate([chain_ids, separator, answer_ids]),
            tail_ids=np.append(separator, answer_ids),
            before_answer=before(example),
            num_answer=len(answer_ids),
            num_latents=dealt.num_latents,
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
        watched_BT = codi.watched(batch)
        trunk = thought_chain.run_trunk(model, batch, compute, keys_B, probes=True, watched_BT=watched_BT)
        teacher_loss, _ = language_loss(model, trunk.supervised_hidden_BMD, batch.trunk_labels_BM, compute)
    with jax.named_scope("student"):
        latents = codi.think_in_training(model, trunk, batch, compute, keys_B)
        hidden_BTD, probed = thought_chain.run_tail(
            model, trunk, latents, batch, compute, keys_B,
            probe=lambda x_BTD: gather_positions(x_BTD, batch.matched_tail_BE),
        )  # fmt: skip
        student_loss, right = thought_chain.tail_loss(model, latents, hidden_BTD, batch, compute)
    states = functools.partial(hidden_states, model, with_embedding=codi.distill_embedding)
    teacher_LBED = jax.lax.stop_gradient(states(trunk.probed, batch.trunk_ids_BP, batch.matched_trunk_BE))
    student_LBED = states(probed, batch.tail_ids_BT, batch.matched_tail_BE)
    is_real_BE = batch.question_lengths_BE > 0
    spread = SPREADS[codi.spread](teacher_LBED, is_real_BE, compute) if codi.normalise else None
    distill = masked_sum(distance(student_LBED, teacher_LBED, spread), is_real_BE)
    further, more = codi.further_loss(model, trunk, latents, batch, counts, compute)
    loss = further + (
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
    return loss, metrics | more


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
    normalise: bool = True  # whether each layer's distance is divided by the teacher's standard deviation there
    # With normalise, over what: batch, as in CODI's code; each example alone; or all, the batch and its layers at once.
    spread: str = binding("batch", before="example")
    distill_embedding: bool = binding(True, before=False)  # among the layers, the embedding of the token that is fed
    matched: str = binding("digit", before="prefix")  # the token that predicts the answer's first digit, or first token
    # Whether the teacher sees the last step: its result is the answer, which the teacher would copy (43.7 to 31.7 % in
    # CODI's ablation).
    teacher_last_step: bool = binding(False, before=True)
    projection_size: int = 0  # hidden size of the MLP that latents go through; 0: a hidden state is fed as it is
    projection_layer_norm: bool = True  # at the MLP's end, as in the paper; CoLaR's authors have none

    def __post_init__(self):
        group = self.group
        require(self.num_latents > 0, f"{group}.num_latents={self.num_latents} must be positive")
        one_of(f"{group}.spread", self.spread, tuple(SPREADS))
        one_of(f"{group}.matched", self.matched, ("digit", "prefix"))
        for field in ("teacher_weight", "student_weight", "distill_weight"):
            require(getattr(self, field) >= 0, f"{group}.{field}={getattr(self, field)} is negative")
        require(self.projection_size >= 0, f"{group}.projection_size={self.projection_size} is negative: 0 means none")

    def idle_in_training(self) -> str:
        if self.spread == type(self).spread or self.reads_spread:
            return ""
        return (
            f"spread={self.spread!r} does nothing with {self.group}.normalise=False, where no distance is divided by "
            f"it; leave it at {type(self).spread!r}, or normalise"
        )

    @property
    def reads_spread(self) -> bool:
        """Whether `spread` says anything."""
        return self.normalise

    @property
    def modules(self) -> dict[str, OwnModule]:
        """The projection, where it has a size."""
        if not self.projection_size:
            return {}
        settings = ProjectionConfig(self.projection_size, self.projection_layer_norm)
        return {PROJECTION: OwnModule(Projection, settings, save_projection, load_projection)}

    def project(self, model: Reasoner, hidden):
        """A hidden state as the next input: through the projection, if there is one."""
        return model.projection(hidden) if self.projection_size else hidden

    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def make_loader(self, encoded: EncodedProblems, *, seed: int, rows: int, row_positions: int) -> StagedLoader:
        schedule = Constant(Phase(removed=0, num_latents=self.num_latents))
        form = self.form(encoded)
        return StagedLoader(encoded, schedule, form, seed=seed, rows=rows, row_positions=row_positions)

    def form(self, encoded: EncodedProblems) -> Form:
        """What a batch holds of each of these problems."""
        return CodiRows(self.teacher_last_step, self.matched)

    def count(self, batch: ThoughtBatch) -> CodiCounts:
        return count_supervised(batch)

    def watched(self, batch: ThoughtBatch):
        """Positions of the teacher whose queries a method built on this one reads; None: of no position."""
        return None

    def think_in_training(self, model: Reasoner, trunk: Trunk, batch: ThoughtBatch, compute: Execution, keys_B):
        """The latents of a training step."""
        return thought_chain.run_latents(model, trunk, batch, self.num_latents, self.project, compute, keys_B)

    def further_loss(self, model, trunk: Trunk, latents: Latents, batch, counts, compute: Execution):
        """What a method built on this one adds, from teacher and latents: a loss and its metrics."""
        return 0.0, {}

    def objective(self, model, batch: ThoughtBatch, keys_B, counts: CodiCounts, compute: Execution):
        return codi_loss(model, batch, keys_B, counts, self, compute)

    def thinking(self, decode: DecodeConfig, separator_id: int, *, greedy: bool) -> Thinking:
        return thought_chain.fixed_thinking(
            self.num_latents, self.project, way=PROJECTION if self.projection_size else "hidden_states"
        )

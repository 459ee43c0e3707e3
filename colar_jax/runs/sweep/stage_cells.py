"""What a sweep decodes of a stage, and all that each outcome depends on: by that it is known again."""

import dataclasses
import json

from colar_jax import __version__
from colar_jax.config import DecodeConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import speed_text
from colar_jax.evaluation.decode_program import TEMPERATURES
from colar_jax.methods import Method
from colar_jax.report.results import AS_CONFIGURED
from colar_jax.runs.identity import other_settings
from colar_jax.runs.run import Run
from colar_jax.runs.starts import finished_identity
from colar_jax.runs.sweep.cells import Cell, cells_of, is_looked_at
from colar_jax.runs.sweep.store import Store, digest, key_of
from colar_jax.runs.trim_verifier import TrimSource, trim_source


@dataclasses.dataclass(frozen=True, eq=False)
class StageCells:
    """What a sweep decodes of a stage; `dependencies` says, for each cell, all that its outcome depends on."""

    name: str  # of the run; "" where there is one only
    run: Run
    stage: str
    of_stage: dict  # what the outcomes of all cells depend on
    dependencies: dict[Cell, dict]
    trims: TrimSource | None = None  # what says where chains end; None: no cell is trimmed

    @property
    def step(self) -> int:
        """Of the checkpoint that is evaluated, whatever training does meanwhile."""
        return self.of_stage["checkpoint"]["step"]

    def missing(self, store: Store) -> list[Cell]:
        """The cells that are not decoded yet."""
        return [cell for cell, depends_on in self.dependencies.items() if key_of(depends_on) not in store]


def stage_cells(name: str, run: Run, stage: str) -> StageCells:
    """The cells of a stage that has a finished checkpoint; UserError for one that has none."""
    checkpoint = finished_identity(run.workdir / stage)
    others = other_settings(checkpoint["settings"], run, stage)
    checkpoint["settings"] = digest(json.dumps(checkpoint["settings"], sort_keys=True))
    config = run.config
    shared = {
        "version": __version__,
        "stage": stage,
        "checkpoint": checkpoint,
        "base": run.base_identity,
        "dtype": config.model.dtype,
        "verifier": config.data.verifier,
        **({"settings": others} if others else {}),
    }
    questions = {dataset: questions_digest(encoded) for dataset, encoded in run.tests.items()}
    cells = cells_of(config, stage, list(run.tests))
    trims = trim_source(run) if any(cell.trim != AS_CONFIGURED for cell in cells) else None

    def dependencies(cell: Cell) -> dict:
        # Greedy decoding reads no temperature.
        unread = TEMPERATURES if cell.seed is None else ()
        read = decode_settings(cell.decode, run.method(stage))
        decode = {name: value for name, value in read.items() if name not in unread}
        return shared | {
            "dataset": cell.dataset,
            "questions": questions[cell.dataset],
            "speed": speed_text(cell.speed),
            "seed": cell.seed,
            "decode": decode,
            "latent_words": config.eval.latent_words if is_looked_at(config, cell) else 0,
            **({} if cell.trim == AS_CONFIGURED else {"trim": trims.depends_on | {"agreements": cell.trim}}),
        }

    return StageCells(name, run, stage, shared, {cell: dependencies(cell) for cell in cells}, trims)


def decode_settings(decode: DecodeConfig, method: Method) -> dict:
    """Those that an answer of this method depends on, by name."""
    read = dataclasses.asdict(decode)
    if not (method.chooses_speed and decode.speed_certainty):  # so that what was kept before there was one is kept
        del read["speed_certainty"]
    return read


def questions_digest(encoded: EncodedProblems) -> str:
    """The same for two sets of the same questions and answers in the same order."""
    return digest(json.dumps([(problem.question, problem.answer) for problem in encoded.problems]))

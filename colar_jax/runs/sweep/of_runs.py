"""What a report says of its runs themselves: what they are, how they were decoded, and which have not ended."""

import contextlib

from colar_jax.config import Config, plain
from colar_jax.data.fingerprint import question_hashes
from colar_jax.errors import UserError
from colar_jax.runs.asked_speeds import stages_of
from colar_jax.runs.run import Run
from colar_jax.runs.run_model import model_name
from colar_jax.runs.starts import best_before_the_end, unfinished


def decode_settings_of(config: Config) -> dict[str, dict]:
    """What the answers of a run, and whether they are right, depend on besides its weights."""
    return {
        "decode": plain(config.decode),
        "eval": plain(config.eval),
        "data": {"verifier": config.data.verifier},
    }


def unfinished_stages(run: Run) -> dict[str, str]:
    """The stages that have not taken all their steps, also those that others start from, and where each stands."""
    found = {}
    for stage in dict.fromkeys((*run.config.stage_names, *stages_of(run.config))):
        with contextlib.suppress(UserError):  # what has no checkpoint is of another run
            found[stage] = unfinished(run.workdir / stage)
    return {stage: place for stage, place in found.items() if place}


def repeats_of(run: Run) -> list[str]:
    """What its test sets ask more than once: for every interval each question is one of its own."""
    remarks = []
    for dataset, encoded in run.tests.items():
        again = len(encoded) - len(question_hashes(encoded.problems))
        if again:
            remarks.append(
                f"{again:,} of {len(encoded):,} questions of {dataset} repeat another one there: intervals, which take "
                "each for one of its own, are too narrow."
            )
    return remarks


def notes_of(name: str, run: Run, short: dict[str, str]) -> str:
    """As in "Model nano, seed 0. cot: method cot; colar: method colar (step 500 of 900, the best in validation)."."""
    trained = []
    for stage in stages_of(run.config):
        place = f"unfinished: {short[stage]}" if stage in short else best_before_the_end(run.workdir / stage)
        said = f" ({place})" if place else ""
        trained.append(f"{stage}: method {run.config.stages[stage].method}{said}")
    of_run = f"{name}: model" if name else "Model"
    return f"{of_run} {model_name(run.config)}, seed {run.config.seed}. " + "; ".join(trained) + "."

"""Problems from public data sets on the Hugging Face hub.

A set is a line in `HUB_SETS` and a pure function from one of its rows to a `Problem`, or to None for a row that is left
out.
"""

import dataclasses
import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from colar_jax.data.hub_rows import HubRow, configuration_of, load_rows, splits_on_hub
from colar_jax.data.json_lines import VAL_NAMES
from colar_jax.data.problems import Problem
from colar_jax.data.records import KEYS, log_unread, parse_gsm8k, parse_problem, unread_keys
from colar_jax.errors import UserError

logger = logging.getLogger(__name__)

BOX = "\\boxed{"


@dataclasses.dataclass(frozen=True)
class HubSet:
    """Where a set lies on the hub, and how its rows become problems.

    Attributes:
      repository: `<owner>/<name>`, or a local folder that `datasets.load_dataset` can read.
      convert: a row -> its problem, or None for a row to leave out.
      splits: our split -> the hub's, in the slice syntax of `datasets` ("train[:90%]", "train+test").
      subsets: the configurations to join, in order; a slice is taken of each.
    """

    repository: str
    convert: Callable[[HubRow], Problem | None]
    splits: Mapping[str, str]
    subsets: tuple[str | None, ...] = (None,)


def load_hub_set(name: str, split: str) -> list[Problem]:
    """The problems of one split of a set in `HUB_SETS`, or of `<owner/name>` with columns question, steps and answer.

    How many rows were left out is logged.

    Args:
      name: of a set that has several configurations `<owner/name>:<configuration>`.

    Raises:
      UserError: if the name is unknown, the set has no such split or configuration or cannot be loaded, or a row breaks
        its form.
    """
    if name in HUB_SETS:
        hub_set = HUB_SETS[name]
    elif "/" in name:
        convert = convert_plain if split == "train" else convert_asked
        name, subset = configuration_of(name)
        hub_set = HubSet(name, convert, choose_splits(splits_on_hub(name, subset)), (subset,))
    else:
        nearest = difflib.get_close_matches(name, HUB_SETS, n=3) or list(HUB_SETS)
        raise UserError(f"hub:{name} is unknown; did you mean hub:{' or hub:'.join(nearest)}, or hub:<owner/name>?")
    if split not in hub_set.splits:
        raise UserError(f"hub:{name} has no split {split!r}, only {', '.join(hub_set.splits)}")
    parts = []
    for subset in hub_set.subsets:
        rows = load_rows(hub_set.repository, subset, hub_set.splits[split])
        place = ", ".join(filter(None, (f"hub:{name}", subset, hub_set.splits[split])))
        parts.append(convert_rows(rows, hub_set.convert, place))
    return interleaved(parts)


def interleaved(parts: Sequence[Sequence[Problem]]) -> list[Problem]:
    """All problems, each part in its order and spread evenly: the first n have of each part the share that all have.

    What takes the first of a set (`data.num_val`, `data.num_test`, `data.train_limit`) takes no subject alone.
    """
    placed = [
        ((index + 0.5) / len(part), number, problem)
        for number, part in enumerate(parts)
        for index, problem in enumerate(part)
    ]
    return [problem for *_, problem in sorted(placed, key=lambda one: one[:2])]


def convert_rows(rows: Iterable[HubRow], convert: Callable[[HubRow], Problem | None], place: str) -> list[Problem]:
    """Convert rows in order, leave out those that have no problem, and log how many these were.

    Of rows in our own form also what was not read of them.

    Raises:
      UserError: for a row without a column that `convert` needs, or with a broken value; names `place` and row.
    """
    problems, left_out, unread = [], 0, set()
    for number, row in enumerate(rows, start=1):
        try:
            problem = convert(row)
        except KeyError as error:
            raise UserError(f"{place}, row {number}: no column {error}, only {', '.join(row)}") from None
        except ValueError as error:
            raise UserError(f"{place}, row {number}: {error}") from None
        if problem is None:
            left_out += 1
        else:
            problems.append(dataclasses.replace(problem, place=f"{place}, row {number}"))
        if convert in (convert_plain, convert_asked):
            unread |= unread_keys(row)
    log_unread(place, unread)
    if left_out:
        logger.info("%s: left out %d of %d rows", place, left_out, left_out + len(problems))
    return problems


def convert_plain(row: HubRow) -> Problem:
    """A row in the form that a JSON Lines file has."""
    return parse_problem(row)


def convert_asked(row: HubRow) -> Problem:
    """As `convert_plain`, of a set that is only asked: steps may be missing."""
    return parse_problem(row, needs_steps=False)


def convert_gsm8k(row: HubRow) -> Problem:
    """Original GSM8K: each line of the worked solution is a step, `<<..>>` marks kept; the answer follows `####`."""
    return parse_gsm8k(row["question"], row["answer"])


def convert_gsm_hard(row: HubRow) -> Problem:
    """GSM-Hard: the one step is a Python program, the answer the float it returns."""
    return _problem(row["input"], [row["code"]], row["target"])


def convert_svamp(row: HubRow) -> Problem:
    """SVAMP: the question is body and question sentence, the one step an infix expression."""
    question = f"{row['Body'].strip('. ')}. {row['Question'].strip()}"
    return _problem(question, [row["Equation"]], row["Answer"])


def convert_multiarith(row: HubRow) -> Problem:
    """MultiArith: the hub's copy has no equations, so there are no steps."""
    return _problem(row["question"].strip(), [], row["final_ans"])


def convert_math(row: HubRow) -> Problem | None:
    """MATH: the answer is what the box holds, the one step is the solution without the box.

    None for a solution without exactly one `\\boxed{` (as published) or with nothing in the box.
    """
    parts = cut_box(row["solution"].strip())
    if parts is None or not parts[1].strip():
        return None
    step, answer = parts
    return _problem(row["problem"], [step], answer)


def cut_box(solution: str) -> tuple[str, str] | None:
    """Split a solution into (the text around its box, what the box holds), or None without exactly one closed box.

    The box ends at the brace that closes it. The published code took the last brace of the solution, which reads the
    answer wrong in one row of ten: `8}`, a line break and `\\end{align*` instead of `8` (docs/method.md, departures).
    """
    before, box, rest = solution.partition(BOX)
    if not box or BOX in rest:
        return None
    depth = 1
    for match in re.finditer(r"\\.|[{}]", rest, re.DOTALL):  # an escaped brace, \{ or \}, is text
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return before + rest[match.end() :], rest[: match.start()]
    return None


def _problem(question: Any, steps: Any, answer: Any) -> Problem:
    return parse_problem(dict(zip(KEYS, (question, steps, answer), strict=True)))


def choose_splits(names: list[str]) -> dict[str, str]:
    """Which of a set's own splits are ours. Without a validation split, the last tenth of the training rows is val."""
    validation = next((name for name in VAL_NAMES if name in names), None)
    splits = {"val": validation} if validation else {}
    if "train" in names:
        splits = {"train": "train"} | splits if validation else dict(LAST_TENTH_IS_VAL)
    return splits | ({"test": "test"} if "test" in names else {})


# As the published code cuts GSM8K, and the same for any set without a validation split.
LAST_TENTH_IS_VAL = {"train": "train[:90%]", "val": "train[90%:]"}

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

HUB_SETS: dict[str, HubSet] = {
    "gsm8k": HubSet("openai/gsm8k", convert_gsm8k, LAST_TENTH_IS_VAL | {"test": "test"}, ("main",)),
    # 385,620 rows of equations only: what the paper trains on.
    "gsm8k_aug": HubSet("whynlp/gsm8k-aug", convert_plain, {"train": "train", "val": "validation", "test": "test"}),
    # The hub calls the 1,319 test rows "train".
    "gsmhard": HubSet("reasoning-machines/gsm-hard", convert_gsm_hard, {"test": "train"}),
    # In the paper these two are test sets as a whole: 1,000 and 600 questions, both splits of the hub together.
    "svamp": HubSet("ChilleD/SVAMP", convert_svamp, {"test": "train+test"}),
    "multiarith": HubSet("ChilleD/MultiArith", convert_multiarith, {"test": "train+test"}),
    # val is the last tenth of each subject, because the rows stand subject by subject.
    "math": HubSet("EleutherAI/hendrycks_math", convert_math, LAST_TENTH_IS_VAL | {"test": "test"}, MATH_SUBJECTS),
}

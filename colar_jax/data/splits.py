"""The sets of a run: training, validation, and one or more test sets."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from colar_jax.data.fingerprint import comparable_question
from colar_jax.data.generators import GENERATED, GENERATORS
from colar_jax.data.hub_rows import Unreachable
from colar_jax.data.problems import Problem
from colar_jax.data.renumbering import NEW_NUMBERS, renumbered
from colar_jax.data.sources import UnknownSource, load_problems, refuse_overlap
from colar_jax.errors import UserError
from colar_jax.settings import DataConfig

logger = logging.getLogger(__name__)

_NAMED_SOURCE = re.compile(r"([\w-]+)\s*=\s*(.*)", re.DOTALL)
_RENUMBERED, _EQUATIONS = "renumbered:", "equations:"
_NAMED_BY_ITSELF = re.compile(rf"(?:{_EQUATIONS})?hub:|{GENERATED.pattern}")

# Of a file, with data.held_out=-1: a tenth, but not more than it takes to compare two methods.
_SHARE_HELD_OUT, _MOST_HELD_OUT = 10, 500


@dataclasses.dataclass(frozen=True)
class Splits:
    """The problems of a run; test sets by name, in the config's order."""

    train: list[Problem]
    val: list[Problem]
    tests: dict[str, list[Problem]]


def load_splits(config: DataConfig) -> Splits:
    """Load every set that the config names, and make sure that no question stands in two of them.

    Without `data.val` (or `data.test`) the training source's own split of that name is taken. A single file's splits
    are a function of the file: its last problems are its test set and those before them its validation set (as many
    as `data.held_out` says), whatever the config names besides, so that they are never trained on.
    """
    with _asked_by("train", config):
        train, own = _training_source(config)
    whole_tests = _whole_tests(config, own)
    if config.val or "val" not in own:
        with _asked_by("val" if config.val else "train", config):
            whole_val = _whole(config.val or config.train, "val", config.num_val)
    else:
        whole_val = own["val"]
    if config.train.startswith(_RENUMBERED):
        train = _without_asked(train, [whole_val, *whole_tests.values()])
    val, tests = whole_val[: config.num_val], _cut(whole_tests, config)
    file = config.train.removeprefix(_RENUMBERED).removeprefix(_EQUATIONS)
    of_val, of_test = (file if name in own and not getattr(config, name) else "" for name in ("val", "test"))
    refuse_overlap({"train": train, "val": val}, config.allow_overlap, file=of_val)
    for name, problems in tests.items():  # test sets may share questions with each other, as GSM-Hard and GSM8K do
        refuse_overlap({"train": train, name: problems}, config.allow_overlap, file=of_test)
        refuse_overlap({"val": val, name: problems}, config.allow_overlap, file=of_val and of_test)
    counts = ", ".join(f"{name} {len(problems)}" for name, problems in {"train": train, "val": val, **tests}.items())
    logger.info("problems: %s", counts)
    return Splits(train, val, tests)


def load_tests(config: DataConfig) -> dict[str, list[Problem]]:
    """The test sets alone: the training problems are read only where these are a part of their file."""
    source = config.train.removeprefix(_RENUMBERED)
    is_part_of_file = not config.test and _is_file(source)
    own = _training_source(dataclasses.replace(config, train=source))[1] if is_part_of_file else {}
    return _cut(_whole_tests(config, own), config)


def _whole_tests(config: DataConfig, own: dict[str, list[Problem]]) -> dict[str, list[Problem]]:
    """The sets that the config names, or the training source's own; also what is beyond `data.num_test`."""
    limit = config.num_test or None
    if "test" in own and not config.test:
        return {"test": own["test"]}
    sources = parse_tests(config.test) if config.test else {_short_name(config.train): config.train}
    with _asked_by("test" if config.test else "train", config):
        return {name: _whole(source, "test", limit) for name, source in sources.items()}


@contextlib.contextmanager
def _asked_by(name: str, config: DataConfig) -> Iterator[None]:
    """Say of a source that is not there, or of a hub set that cannot be loaded, which setting names it."""
    try:
        yield
    except UnknownSource as error:
        raise UserError(f"data.{name}: {error}. Name another one with --config.data.{name}") from None
    except Unreachable as error:
        advice = f"{error} (--config.data.{name}=path.jsonl)"
        if name != "train" and "hub:" not in config.train:
            own = "a part of your own file" if _is_file(config.train) else f"what data.train={config.train} has for it"
            advice += f"; --config.data.{name}= {'tests' if name == 'test' else 'validates'} on {own}"
        raise UserError(f"data.{name}: {advice}") from error


def _whole(source: str, split: str, limit: int | None) -> list[Problem]:
    """All problems of a set; a generator makes as many as are asked for."""
    return load_problems(source, split, limit=limit if GENERATED.match(source) else None)


def _cut(tests: dict[str, list[Problem]], config: DataConfig) -> dict[str, list[Problem]]:
    return {name: problems[: config.num_test or None] for name, problems in tests.items()}


def _is_file(source: str) -> bool:
    return os.path.isfile(os.path.expanduser(source.removeprefix(_EQUATIONS)))


def num_held_out(held_out: int, num_problems: int) -> int:
    """How many problems of a file are its test set, and how many its validation set (`data.held_out`)."""
    return min(num_problems // _SHARE_HELD_OUT, _MOST_HELD_OUT) if held_out < 0 else held_out


def _training_source(config: DataConfig) -> tuple[list[Problem], dict[str, list[Problem]]]:
    """The training problems; of a single file, also its own "val" and "test", whole."""
    source = config.train.removeprefix(_RENUMBERED)
    if not _is_file(source):
        return load_problems(config.train, "train", limit=config.train_limit or None), {}
    problems = load_problems(source, "train")
    count = num_held_out(config.held_out, len(problems))
    unnamed = [f"data.{name}" for name in ("val", "test") if not getattr(config, name)]
    if config.held_out == 0:
        if unnamed:
            raise UserError(f"data.held_out=0 leaves no problems of {source} for {' and '.join(unnamed)}: name it")
        return _limited(problems, config), {}
    if count == 0 or len(problems) <= 2 * count:
        wanted, most = f"data.held_out={count}" if count else "a tenth", (len(problems) - 1) // 2
        choice = {0: "", 1: "data.held_out to 1, or "}.get(most, f"data.held_out to a number from 1 to {most}, or ")
        raise UserError(
            f"{source} has {len(problems)} problems, too few to set {wanted} aside for validation and as many "
            f"for testing: set {choice}data.held_out to 0 and name data.val and data.test"
        )
    if len(unnamed) < 2:
        logger.info(
            "%s: its last %d problems and the %d before are its own test and validation set, and not trained on; "
            "data.held_out=0 trains on all of it",
            source, count, count,
        )  # fmt: skip
    return _limited(problems[: -2 * count], config), {"val": problems[-2 * count : -count], "test": problems[-count:]}


def _limited(problems: list[Problem], config: DataConfig) -> list[Problem]:
    """So many training problems as the config says, with new numbers if it says so."""
    if not config.train.startswith(_RENUMBERED):
        return problems[: config.train_limit or None]
    if not config.train_limit:
        raise UserError(f"data.train={config.train} makes any number of problems: data.train_limit must say how many")
    return renumbered(problems, config.train_limit)


def _without_asked(train: list[Problem], others: list[list[Problem]]) -> list[Problem]:
    """Training problems less those that were given new numbers and so became a question of another split."""
    asked = {comparable_question(problem.question) for problems in others for problem in problems}
    return [p for p in train if not p.place.endswith(NEW_NUMBERS) or comparable_question(p.question) not in asked]


def parse_tests(text: str) -> dict[str, str]:
    """`"name=source; name=source"` as a dict; a lone source is named after itself. UserError for none or one twice.

    Sets are separated by semicolons; where there is none, also by a comma before the next `name=`, `hub:` or
    the name of a generator. Any other comma is part of a path.
    """
    tests: dict[str, str] = {}
    for part in filter(None, _parts(text)):
        named = _NAMED_SOURCE.fullmatch(part)
        name, source = (named[1], named[2]) if named else (_short_name(part), part)
        if not source:
            raise UserError(f"data.test={text!r} gives {name!r} no source: write name=source")
        if name in tests:
            raise UserError(f"data.test={text!r} names {name!r} twice: give each set a name of its own, name=source")
        tests[name] = source
    if not tests:
        raise UserError(f"data.test={text!r} names no set: write name=source, and a semicolon between two")
    if "mean" in tests and len(tests) > 1:
        raise UserError(f"data.test={text!r}: reports call the mean of all sets 'mean'; give that set another name")
    return tests


def change_tests(text: str, change: Callable[[str], str]) -> str:
    """`data.test` with `change` on the source of each set, under the name that it has.

    As it is, where `parse_tests` refuses it, or where the changed one would be read as other sets.
    """
    try:
        sets = parse_tests(text)
        wanted = {name: change(source) for name, source in sets.items()}
        named = {name: f"{name}={source}" for name, source in wanted.items()}
        changed = "; ".join(named[name] if _NAMED_SOURCE.fullmatch(named[name]) else wanted[name] for name in wanted)
        return changed if wanted != sets and parse_tests(changed) == wanted else text
    except UserError:
        return text


def _parts(text: str) -> list[str]:
    """The sources of `data.test`, each with its name if it has one."""
    if ";" in text:
        return [part.strip() for part in text.split(";")]
    parts: list[str] = []
    for piece in text.split(","):
        named = _NAMED_SOURCE.fullmatch(piece.strip())
        is_option = named and parts and _is_option(named[1], parts[-1])
        begins = not piece.strip() or named or _NAMED_BY_ITSELF.match(piece.strip())
        if parts and (is_option or not begins):
            parts[-1] += f",{piece.rstrip()}"
        else:
            parts.append(piece.strip())
    return parts


def _is_option(name: str, source: str) -> bool:
    """Whether a name is an option of the generator that a source before it, with or without a name, is."""
    generator = GENERATED.match(source.partition("=")[2].strip()) or GENERATED.match(source)
    return generator is not None and name in GENERATORS[generator[1]].options


def _short_name(source: str) -> str:
    """The last part of a path without its endings, or of `hub:owner/name`, or the generator's name without options.

    The whole source, where a path has no such part (`..`).
    """
    for prefix in (_RENUMBERED, _EQUATIONS, "hub:"):
        source = source.removeprefix(prefix)
    return Path(source.split(":")[0]).name.lstrip(".").split(".")[0] or source

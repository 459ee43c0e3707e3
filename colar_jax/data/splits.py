"""The sets of a run: training, validation, and one or more test sets."""

import dataclasses
import logging
import re
from pathlib import Path

from colar_jax.config import DataConfig
from colar_jax.data.problems import Problem
from colar_jax.data.sources import load_problems, refuse_overlap
from colar_jax.errors import UserError

logger = logging.getLogger(__name__)

_NAMED_SOURCE = re.compile(r"(\w+)=(.+)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Splits:
    """The problems of a run; test sets by name, in the config's order."""

    train: list[Problem]
    val: list[Problem]
    tests: dict[str, list[Problem]]


def load_splits(config: DataConfig) -> Splits:
    """Load every set that the config names, and make sure that no question stands in two of them.

    Without `data.val` (or `data.test`) the training source's own split of that name is taken; a single file has none,
    so the last `data.held_out` problems of it are set aside for each.
    """
    train = load_problems(config.train, "train", limit=config.train_limit or None)
    is_file = Path(config.train).expanduser().is_file()
    if is_file and not (config.val and config.test):
        num_sets = (not config.val) + (not config.test)
        if len(train) <= num_sets * config.held_out:
            raise UserError(
                f"{config.train} has {len(train)} problems, too few to set data.held_out={config.held_out} aside "
                f"{num_sets} times: lower it, or name data.val and data.test"
            )
    if config.test:
        tests = {
            name: load_problems(source, "test", limit=config.num_test or None)
            for name, source in parse_tests(config.test).items()
        }
    elif is_file:
        train, tests = train[: -config.held_out], {"test": train[-config.held_out :][: config.num_test or None]}
    else:
        tests = {_short_name(config.train): load_problems(config.train, "test", limit=config.num_test or None)}
    if config.val:
        val = load_problems(config.val, "val", limit=config.num_val)
    elif is_file:
        train, val = train[: -config.held_out], train[-config.held_out :][: config.num_val]
    else:
        val = load_problems(config.train, "val", limit=config.num_val)
    refuse_overlap({"train": train, "val": val}, config.allow_overlap)
    for name, problems in tests.items():  # test sets may share questions with each other, as GSM-Hard and GSM8K do
        refuse_overlap({"train": train, name: problems}, config.allow_overlap)
        refuse_overlap({"val": val, name: problems}, config.allow_overlap)
    counts = ", ".join(f"{name} {len(problems)}" for name, problems in {"train": train, "val": val, **tests}.items())
    logger.info("problems: %s", counts)
    return Splits(train, val, tests)


def parse_tests(text: str) -> dict[str, str]:
    """`"name=source; name=source"` as a dict; a lone source is named after itself. UserError for none or one twice."""
    tests: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        named = _NAMED_SOURCE.fullmatch(part)
        name, source = (named[1], named[2]) if named else (_short_name(part), part)
        if name in tests:
            raise UserError(f"data.test={text!r} names {name!r} twice: give each set a name of its own, name=source")
        tests[name] = source
    if not tests:
        raise UserError(f"data.test={text!r} names no set: write name=source, and a semicolon between two")
    return tests


def _short_name(source: str) -> str:
    """The last part of a path without its endings, or of `hub:owner/name`, or the generator's name without options."""
    if source.startswith("hub:"):
        source = source.removeprefix("hub:")
    return Path(source.split(":")[0]).name.split(".")[0]

"""Where problems come from: embedded ones, files, folders and hub data sets, by name."""

import contextlib
import difflib
import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from colar_jax.data.equations import equations_alone
from colar_jax.data.fingerprint import comparable_question
from colar_jax.data.generators import GENERATORS, generated
from colar_jax.data.hub import HUB_SETS, load_hub_set
from colar_jax.data.json_lines import SUFFIXES, find_split_file, read_problems
from colar_jax.data.problems import Problem
from colar_jax.data.renumbering import renumbered
from colar_jax.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


class UnknownSource(UserError):
    """There is nothing of a source's name: whoever asks for it says which setting that is."""


def load_problems(source: str, split: str, *, limit: int | None = None, **options: int) -> list[Problem]:
    """The problems of one split of a source, in the source's order.

    Which problems a run sees is decided here and nowhere else, so everything wrong with them is said here, before any
    computation starts. Questions that repeat are not wrong (public test sets have some) but are logged: problem n of
    the warning is line n of a JSON Lines file.

    Args:
      source: one of
        - `arithmetic` or `graphs`, or with options `arithmetic:min_steps=2,max_steps=4`: embedded problems, made on
          the spot (`data.generators`);
        - a `.jsonl` or `.jsonl.gz` file (then `split` does not matter), or a folder of `train`, `val`, `test` files;
        - `renumbered:` and another source (a file, a folder, `hub:...`): its training problems, then the same ones with
          new numbers again and again, until `limit` (`data.renumbering`); its other splits are as they are;
        - `equations:` and another source: its problems, with the marks `<<...>>` of their solutions alone as steps
          (`renumbered:equations:hub:gsm8k`);
        - `hub:gsm8k` and the other names in `hub.HUB_SETS`, or `hub:<owner/name>` for a set that has the columns
          question, steps and answer, `hub:<owner/name>:<configuration>` where it has several configurations.
      split: "train", "val" or "test".
      limit: at most this many problems, the first ones. A generator makes exactly this many and needs it.
      **options: options of a generator (`seed`, `min_steps`, ...). An option in `source` wins.

    Raises:
      UserError: for an unknown source, split or option, a file or a row that breaks the form, or an empty set.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}{_nearest(split, SPLITS)}")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: it must be at least 1, or None for all problems")
    name, _, rest = source.partition(":")
    if options and name not in GENERATORS:
        raise UserError(f"data source {source!r} takes no options, got {options}: they are for a generator")
    if name in SOURCES:
        problems = SOURCES[name](rest, split, limit, options)
    else:
        problems = _from_path(source, split, limit)
    if not problems:
        raise UserError(f"data source {source!r} has no problem in split {split!r}: name one that has")
    if name not in ("renumbered", "equations"):  # the first says itself what comes again, the second what it reads
        _warn_of_repeats(problems, source, split)
        _warn_of_blank_steps(problems, source, split)
    return problems


def path_in(source: str) -> tuple[str, str]:
    """What stands before the path of a source, `renumbered:` and `equations:`, and the path; empty: it names none."""
    name, colon, rest = source.partition(":")
    if colon and name in ("renumbered", "equations"):
        before, path = path_in(rest)
        return f"{name}:{before}", path
    return (source, "") if name in SOURCES else ("", source)


def refuse_overlap(splits: dict[str, list[Problem]], allow: bool, *, file: str = "") -> None:
    """Make sure that no question stands in two splits: accuracy on a question that was trained on says nothing.

    Questions are compared without case, white space and punctuation of sentences.

    Args:
      splits: the problems of each split, by the name that a message should use.
      allow: only log what the splits share (config field `data.allow_overlap`).
      file: the one that all of them are parts of; empty where they are of several.

    Raises:
      UserError: if two splits share a question and `allow` is False. Names all such pairs, with counts and examples.
    """
    questions = {
        name: {comparable_question(p.question): p.question for p in problems} for name, problems in splits.items()
    }
    names = list(questions)
    found = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = [question for key, question in questions[second].items() if key in questions[first]]
            if shared:
                found.append(f"{first!r} and {second!r} share {len(shared)} questions, for example {shared[0]!r}")
    if not found:
        return
    message = "; ".join(found)
    if not allow:
        advice = (
            f"they are parts of one file, remove its repeats ({file})" if file else "use sets without shared questions"
        )
        raise UserError(f"{message}: {advice}, or set data.allow_overlap=True")
    logger.warning("%s (allowed by data.allow_overlap)", message)


def _from_hub(rest: str, split: str, limit: int | None, options: dict[str, int]) -> list[Problem]:
    return load_hub_set(rest, split)[:limit]


def _from_renumbered(rest: str, split: str, limit: int | None, options: dict[str, int]) -> list[Problem]:
    if not rest or rest.partition(":")[0] in (*GENERATORS, "renumbered"):
        raise UserError(
            f"data source {'renumbered:' + rest!r}: name a file, a folder or hub:... after renumbered:, whose problems "
            "are then given new numbers"
        )
    if split != "train":
        return load_problems(rest, split, limit=limit)
    if limit is None:
        raise UserError("data source 'renumbered' makes any number of problems: data.train_limit must say how many")
    return renumbered(load_problems(rest, split), limit)


def _from_equations(rest: str, split: str, limit: int | None, options: dict[str, int]) -> list[Problem]:
    if not rest or rest.partition(":")[0] in (*GENERATORS, "renumbered", "equations"):
        raise UserError(
            f"data source {'equations:' + rest!r}: name a file, a folder or hub:... after equations:, whose solutions "
            "have marks <<...>>; with new numbers it is renumbered:equations:..."
        )
    problems = [equations_alone(problem) for problem in load_problems(rest, split, limit=limit)]
    if not any(problem.steps for problem in problems):
        raise UserError(f"data source {'equations:' + rest!r}: no step of split {split!r} has a mark <<...>>")
    return problems


def _from_path(source: str, split: str, limit: int | None) -> list[Problem]:
    # os.path returns False where pathlib raises: names that are too long, zero bytes, `~` of an unknown user.
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):
        raise UnknownSource(_unknown_source(source, path))
    file = find_split_file(path, split) if path.is_dir() else path
    return read_problems(file, limit, needs_steps=split == "train")


# name -> function of (what follows the colon, split, limit, options). Any other source is a path.
SOURCES: dict[str, Callable[[str, str, int | None, dict[str, int]], list[Problem]]] = {
    **{name: functools.partial(generated, name) for name in GENERATORS},
    "hub": _from_hub,
    "renumbered": _from_renumbered,
    "equations": _from_equations,
}


def _unknown_source(source: str, path: Path) -> str:
    """What to say about a source that is neither a name nor a path: the nearest names, and what a source can be."""
    names = [*GENERATORS, "renumbered:<source>", "equations:<source>", *(f"hub:{name}" for name in HUB_SETS)]
    beside = []
    with contextlib.suppress(OSError, ValueError):
        beside = [str(path.parent / name) for name in os.listdir(path.parent) if _can_be_data(path.parent / name)]
    several = " (a semicolon separates the sets of data.test)" if "," in source else ""
    hint = _nearest(source, names + beside) or "."
    seen_from = "" if path.is_absolute() else f". It was looked for in {os.getcwd()}"
    return (
        f"data source {source!r} is no file, no folder and no known name{several}{hint} "
        f"A source is a .jsonl or .jsonl.gz file, a folder of them, {', '.join(names)} or hub:<owner/name>"
        f"{seen_from}"
    )


def _can_be_data(path: Path) -> bool:
    """Whether it is a file of problems by its name, or a folder with one in it."""
    if not os.path.isdir(path):
        return path.name.endswith(SUFFIXES)
    with contextlib.suppress(OSError):
        return any(name.endswith(SUFFIXES) for name in os.listdir(path))
    return False


def _nearest(wrong: str, right: Sequence[str]) -> str:
    matches = difflib.get_close_matches(wrong, right, n=3)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def _warn_of_repeats(problems: list[Problem], source: str, split: str) -> None:
    first_seen: dict[str, int] = {}
    repeats = []
    for number, problem in enumerate(problems, start=1):
        first = first_seen.setdefault(comparable_question(problem.question), number)
        if first != number:
            repeats.append((number, first))
    if repeats:
        number, first = repeats[0]
        logger.warning(
            "data source %r, split %r: %d of %d questions repeat an earlier one; the first: problem %d repeats %d, %r",
            source,
            split,
            len(repeats),
            len(problems),
            number,
            first,
            problems[number - 1].question,
        )


def _warn_of_blank_steps(problems: list[Problem], source: str, split: str) -> None:
    """As of a text that was split at its line breaks. CODI's teacher would leave out a blank one, and read the last."""
    blank = [number for number, problem in enumerate(problems, start=1) if not all(map(str.strip, problem.steps))]
    if blank:
        logger.warning(
            "data source %r, split %r: %d of %d problems have a step without text, the first problem %d: methods that "
            "go by steps count it as one; take it out",
            source, split, len(blank), len(problems), blank[0],
        )  # fmt: skip

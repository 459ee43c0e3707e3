"""Whether two answers are the same mathematics: 0.5 and \\frac{1}{2}, 2\\sqrt{2} and \\sqrt{8}, {1,2} and {2,1}.

Judged by math-verify (the extra `math`), in a process that is ended when an answer takes too long (`math_worker`).
"""

import atexit
import functools
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

from colar_jax.errors import UserError

_WORKER_FILE = Path(__file__).with_name("math_worker.py")
# Longer than any answer of MATH (at most 159 characters); longer answers are never right.
_LONGEST_ANSWER = 500
# Verdicts are cached for each process: rollouts give the same answers again and again.
_REMEMBERED_PAIRS = 2**16


def require_library() -> None:
    """UserError, with what to install, where math-verify is missing."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "data.verifier='math' needs the package math-verify, which is not installed: "
            "pip install -e '.[math]', or choose data.verifier=numeric"
        )


# What LaTeX lays out and does not mean: sizes of brackets, a negative space, the thin space before three digits.
_LAYOUT = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\!|(?<=\d)\\,(?=\d{3}(?!\d))")
_SPACES = re.compile(r"(?:\s|\\[,;])+")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|mathrm)\{([^{}]*)\}")


def is_same_but_for_layout(prediction: str, answer: str) -> bool:
    """Whether the two are the same LaTeX, `\\text{}` around words aside, and spaces that keep no two digits apart."""
    prediction, answer = (_without_layout(text) for text in (prediction, answer))
    return prediction == answer


def _without_layout(text: str) -> str:
    text = _LAYOUT.sub("", _TEXT.sub(r"\1", text))
    return _SPACES.sub(_if_between_digits, text).strip().rstrip(".")


def _if_between_digits(spaces: re.Match) -> str:
    around = spaces.string[spaces.start() - 1 : spaces.start()], spaces.string[spaces.end() : spaces.end() + 1]
    return " " if all(sign.isdigit() for sign in around) else ""


@functools.lru_cache(_REMEMBERED_PAIRS)
def is_equivalent(prediction: str, answer: str) -> bool:
    """Whether the two are the same mathematics; False also for what cannot be read, or takes too long to compare."""
    if not prediction.strip() or max(len(prediction), len(answer)) > _LONGEST_ANSWER:
        return False
    with _ONE_AT_A_TIME:
        return _worker().judge(prediction, answer)


class _Worker:
    """The judging process; one that has ended is replaced at the next pair."""

    def __init__(self):
        # -P: the folder of the file has modules whose names other packages use.
        command = [sys.executable, "-P", str(_WORKER_FILE)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        if self._process.stdout.readline() != "ready\n":
            self.end()
            raise RuntimeError(f"{' '.join(command)} did not start")

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def judge(self, prediction: str, answer: str) -> bool:
        try:
            self._process.stdin.write(json.dumps([prediction, answer]) + "\n")
            self._process.stdin.flush()
            verdict = self._process.stdout.readline()
        except BrokenPipeError:
            verdict = ""
        if not verdict:  # it was ended by its limits
            self.end()
            return False
        return json.loads(verdict)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


_ONE_AT_A_TIME = threading.Lock()
_running: list[_Worker] = []


def _worker() -> _Worker:
    if not _running or _running[0].has_ended:
        _running[:] = [_Worker()]
    return _running[0]


@atexit.register
def _end_worker() -> None:
    for worker in _running:
        worker.end()

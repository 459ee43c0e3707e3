"""Equality of answers as mathematics: as models and MATH write them, what must not be equal, and hostile input."""

import importlib.util
import signal
import time

import pytest
from cases import fast

from colar_jax.config import DataConfig
from colar_jax.data import math_equivalence, math_worker
from colar_jax.data.answers import check_verifier, is_right, is_same_mathematics

EQUAL = [
    (r"\frac{1}{2}", "0.5"),
    (r"\dfrac{1}{2}", r"\frac12"),
    ("1/2", r"\frac{1}{2}"),
    (r"1\frac12", r"\frac{3}{2}"),
    (r"90^{\circ}", "90"),
    ("90 degrees", r"90^\circ"),
    ("50%", r"50\%"),
    (r"5\text{ cm}", "5"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"\$18.90", "18.9"),
    (r"10,\!000", "10000"),
    ("x=5", "5"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"(-\infty,-1)\cup(4,\infty)", r"(4, \infty) \cup (-\infty, -1)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(A)}", "A"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("3+2i", "2i+3"),
    ("12", "12_8"),
    ("B, E", r"\text{B,E}"),
    ("a+b+c", "a + b + c"),
    (r"\left(3,\frac{\pi}{2}\right)", r"(3, \frac{\pi}{2})"),
    ("1e3", "1,000"),
]
DIFFERENT = [
    ("(1,2)", "(12)"),
    ("1,2", "12"),
    ("(1,2)", "(2,1)"),
    ("[1,2]", "(1,2)"),
    ("[1,2)", "[1,2]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\text{even}", r"\text{odd}"),
    ("p-q", "q-p"),
    ("10_2", "10_{3}"),
    ("1 2", "12"),
    ("1  2", "12"),
    ("1\n\n2", "12"),
    (r"1\;2", "12"),
    (r"1 \, 2", "12"),
    (r"x\leftarrow y", "xarrow y"),
    ("3.14", r"\pi"),
    ("-3", "3"),
    ("5", "50\\%"),
    ("I do not know", "6"),
    ("", "6"),
    (r"\frac{1}{", "6"),
]

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra `math`: pip install -e '.[math]'"
)


@needs_math_verify
@pytest.mark.parametrize(("prediction", "answer"), EQUAL)
def test_the_same_mathematics(prediction, answer):
    assert is_same_mathematics(prediction, answer)
    assert is_same_mathematics(answer, prediction)


@needs_math_verify
@pytest.mark.parametrize(("prediction", "answer"), DIFFERENT)
def test_other_mathematics(prediction, answer):
    assert not is_same_mathematics(prediction, answer)


@pytest.fixture(
    params=fast([signal.SIG_DFL, signal.SIG_IGN], signal.SIG_IGN), ids=["as usual", "ignored, as by libtpu"]
)
def profiling_signal(request):
    """What the process that judges inherits of the signal that ends it."""
    before = signal.signal(signal.SIGPROF, request.param)
    yield
    signal.signal(signal.SIGPROF, before)


@needs_math_verify
@pytest.mark.usefixtures("profiling_signal")
def test_hostile_answers_end_and_the_next_pair_is_judged(monkeypatch, tmp_path):
    impatient = tmp_path / "worker.py"
    limit = "CPU_SECONDS_PER_PAIR = 10.0"
    source = math_equivalence._WORKER_FILE.read_text()
    assert limit in source
    impatient.write_text(source.replace(limit, "CPU_SECONDS_PER_PAIR = 1.0"))
    monkeypatch.setattr(math_equivalence, "_WORKER_FILE", impatient)
    monkeypatch.setattr(math_equivalence, "_running", [])
    math_equivalence.is_equivalent.cache_clear()
    start = time.monotonic()
    for hostile in ("9^{9^{9^{9^{9}}}}", "(" * 400):
        assert not is_same_mathematics(hostile, "6")
    assert is_same_mathematics(r"\frac{1}{4}", "0.25"), "a new process judges on"
    assert time.monotonic() - start < 60
    math_equivalence._running[0].end()
    assert is_same_mathematics(r"\frac{1}{5}", "0.2"), "as when it was killed from outside"


def test_what_is_no_question_of_mathematics_asks_nobody(monkeypatch):
    monkeypatch.setattr(math_equivalence, "_worker", lambda: pytest.fail("asked the worker"))
    assert is_same_mathematics("10.0", "10") and is_same_mathematics(r"\text{x}", r"\text{x}")
    assert not is_same_mathematics("11", "10")
    assert not is_same_mathematics("x" * 10_000, "10")
    assert not is_same_mathematics(" ", "10")


def test_a_missing_library_is_said_at_start_up_and_the_default_does_without(monkeypatch):
    monkeypatch.setattr(math_equivalence.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"data.verifier='math' needs.*math-verify.*pip install -e '.\[math\]'"):
        check_verifier("math")
    check_verifier(DataConfig().verifier)
    check_verifier("exact")
    with pytest.raises(ValueError, match="data.verifier='maths' is none of numeric, exact, math. Did you mean 'math'"):
        check_verifier("maths")


@needs_math_verify
def test_the_default_does_not_change_with_the_library():
    assert not is_right(r"\frac{1}{2}", "0.5")
    assert math_worker.answers_agree(r"\frac{1}{2}", "0.5")

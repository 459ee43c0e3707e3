"""The command that asks: it says what the evaluation says, as text and as JSON; and what it refuses."""

import io
import json
import re
import sys

import pytest
from cases import fast
from pipeline.tiny import tiny_config

from colar_jax import generate
from colar_jax.command_line import ASKED, run_main
from colar_jax.data.answers import extract_answer
from colar_jax.data.example_questions import EXAMPLE, EXAMPLES
from colar_jax.exchange.folder import export_stage
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import finished_parameters

# On top of the tests of its parts (tests/decoding/test_streaming.py): CI runs these after the README's command.
pytestmark = pytest.mark.slow


@pytest.fixture
def ask(monkeypatch, capsys, finished):
    """`ask(*flags, stdin="")` is what the program prints, in lines."""

    def ask(*flags, stdin: str = "", workdir=finished) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["generate", f"--workdir={workdir}", *flags])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        run_main(generate.generate, generate.Flags, ASKED)
        captured = capsys.readouterr()
        ask.errors = captured.err.splitlines()
        return captured.out.splitlines()

    return ask


@pytest.mark.parametrize(
    ("stage", "speed"), fast([("cot", ""), ("colar", "2"), ("colar", "5"), ("no_cot", "")], ("cot", ""), ("colar", "5"))
)
def test_replies_are_those_of_the_evaluation(ask, finished, stage, speed):
    run = prepare(tiny_config(finished))
    speeds = run.decode_speeds(stage)
    chosen = float(speed) if speed else speeds[0]
    parameters, problems = finished_parameters(run, finished / stage), run.tests["arithmetic"]
    outcome = run.evaluator(stage, [problems], speeds).run(parameters, problems, chosen, seed=None)
    chains = run.inspector(stage).look(parameters, problems, chosen, num_words=3)
    flags = [f"--stage={stage}", "--json", *([f"--speed={speed}"] if speed else [])]
    replies = [json.loads(line) for line in ask(*flags, stdin="\n\n".join(p.question for p in problems.problems))]
    assert [reply["question"] for reply in replies] == [problem.question for problem in problems.problems]
    assert [reply["text"] for reply in replies] == outcome.texts == [chain.text for chain in chains]
    assert [reply["prediction"] for reply in replies] == [extract_answer(text).strip() for text in outcome.texts]
    assert [reply["length"] for reply in replies] == outcome.lengths_N.tolist()
    assert [reply["forced_stop"] for reply in replies] == outcome.forced_stop_N.tolist()
    assert [reply["reasoning"] for reply in replies] == [chain.reasoning for chain in chains]
    for reply, chain in zip(replies, chains, strict=True):
        assert (reply["stage"], len(reply["latents"])) == (stage, len(chain.latents))
        for latent, other in zip(reply["latents"], chain.latents, strict=True):
            assert [word for word, _ in latent["words"]] == [word.text for word in other.words]
            assert latent["p_stop"] == pytest.approx(other.p_stop, abs=1e-4)
            assert latent["std"] == pytest.approx(other.std, rel=1e-3)
    if stage == "colar":
        assert all(reply["latents"] for reply in replies)


def cut_of(reply: dict) -> str:
    """What is said of a reply that was cut."""
    cut = [name for name, key in (("thinking", "forced_stop"), ("answer", "cut_answer")) if reply[key]]
    return f"  ({' and '.join(cut)} cut at the limit)" if cut else ""


@pytest.mark.parametrize("stage", fast(["cot", "colar", "no_cot"], "colar"))
def test_a_list_of_questions(ask, stage):
    """Each question before its reply; the same replies in batches of any size, one a line with --quiet."""
    questions = [example.question for example in EXAMPLES]
    asked, flags = "\n".join(questions), (f"--stage={stage}", "--temperature=1", "--seed=3")
    replies = [json.loads(line) for line in ask(*flags, "--json", stdin=asked)]
    assert any(cut_of(reply) for reply in replies), "a model that has learned nothing does not know where to end"
    quiet = ask(*flags, "--quiet", stdin=asked)
    assert quiet == [" ".join(reply["prediction"].split()) + cut_of(reply) for reply in replies]
    lines = ask(*flags, stdin=asked)
    assert [line for line in lines if line.startswith("question> ")] == [f"question> {text}" for text in questions]
    assert "\n".join(lines).count(" cut at the limit)") == sum(bool(cut_of(reply)) for reply in replies)
    one_by_one = ask(*flags, "--config.eval.batch_size=1", stdin=asked)
    assert one_by_one == lines


@pytest.mark.parametrize("size", fast([1, 2, 256], 2))
def test_an_empty_line_is_an_empty_line_of_a_quiet_list(ask, size):
    flags = ("--stage=no_cot", f"--config.eval.batch_size={size}")
    questions = ["Tom has 7 apples. She buys 9 more.", "Eva has 10 apples.", "Ann has 5 pens."]
    dense = ask(*flags, "--quiet", stdin="\n".join(questions))
    asked = "\n  \n".join(["", questions[0], *questions[1:], ""])
    replies = ["", "", dense[0], "", dense[1], "", dense[2], ""]
    assert ask(*flags, "--quiet", stdin=asked) == replies
    assert ask(*flags, "--json", stdin=asked) == ask(*flags, "--json", stdin="\n".join(questions))


def test_what_the_tokenizer_cannot_read_is_named_once_a_question(ask):
    ask("--stage=no_cot", "--quiet", stdin="Bob has 150 apples. Bob has 7.\nHow many apples now?\nEva has 1000 nuts.")
    first, second = ask.errors
    assert first.startswith("Bob has 150 apples. Bob has 7.: the tokenizer has no token for 'Bob', '150',")
    assert second.startswith("Eva has 1000 nuts.: the tokenizer has no token for '1000',")


def test_a_line_for_each_latent_and_then_the_answer(ask):
    question = EXAMPLE.question
    (reply,) = (json.loads(line) for line in ask(f"--question={question}", "--json"))
    assert reply["stage"] == "colar" and reply["speed"] == "2", "the last that thinks in latents, at its first speed"
    lines = ask(f"--question={question}")
    assert [line.split()[0] for line in lines[:-1]] == [str(n + 1) for n in range(reply["length"])]
    assert lines[-1].removesuffix(cut_of(reply)) == reply["text"].replace("\n", "")
    in_detail = ask(f"--question={question}", "--show")
    for line, latent in zip(in_detail, reply["latents"], strict=False):
        assert f"P(stop) {latent['p_stop']:.2f}" in line and f"{latent['words'][0][1]:.2f}" in line
    assert ask(f"--question={question}", "--temperature=1", "--seed=3") != lines


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stage=colarr", "stage='colarr' is no stage of .*, which has cot, colar.*Did you mean 'colar'?"),
        (
            "--stage=rl",
            "stage 'rl' of .* has no checkpoint yet: train it first, or name one that has: cot, colar, no_cot$",
        ),
        ("--speed=0.5", "'0.5' is no thinking speed"),
        ("--speed=2,5", "speed=2,5: one speed at a time, such as speed=2"),
        ("--temperature=hot", "flag --temperature=hot: a number is wanted, not 'hot'"),
        ("--temperature=-1", "--temperature=-1.0 is no number of at least 0"),
        ("--temperature=1e39", r"--temperature=1e\+39 is no number of at least 0, finite in float32"),
        ("--seed=-1", "--seed=-1 is no whole number from 0"),
        ("--question=", "--question= is no question: write one, or leave the flag out"),
        ("--question=  ", "--question= is no question: write one, or leave the flag out"),
        ("--question=Bob has 7 apples.", "the question, 'Bob has 7 apples.': the tokenizer does not know 'Bob'"),
        ("--workdir=", "--workdir is missing: name the folder of a run, or one that"),
        (("--quiet", "--json"), "--show, --json and --quiet are three ways to print a reply: take one"),
    ],
)
def test_what_cannot_be_asked_is_said_with_the_fix(ask, capsys, flag, message):
    with pytest.raises(SystemExit):
        ask(*((flag,) if isinstance(flag, str) else flag))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {message}", line)


def test_an_exported_folder_is_asked_as_its_run(ask, finished, tmp_path):
    question = f"--question={EXAMPLE.question}"
    folder = export_stage(prepare(tiny_config(finished), sets="none"), "colar", tmp_path / "out")
    assert ask(question, "--json", workdir=folder) == ask(question, "--json", "--stage=colar")
    (cut,) = ask(question, "--json", "--config.decode.max_latents=1", workdir=folder)
    assert json.loads(cut)["length"] <= 1


def test_at_a_terminal_a_question_that_cannot_be_read_ends_nothing(ask, monkeypatch):
    monkeypatch.setattr(generate.sys, "stdin", io.StringIO())
    typed = iter(["Bob has 7 apples.", "", EXAMPLE.question])

    def type_next(prompt=""):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    class Terminal(io.StringIO):
        isatty = staticmethod(lambda: True)

    monkeypatch.setattr("builtins.input", type_next)
    monkeypatch.setattr(io, "StringIO", Terminal)
    lines = ask("--stage=no_cot")
    assert "does not know 'Bob'" in ask.errors[0] and len(lines) >= 1


def test_a_method_without_a_speed_is_asked_without_one(ask, capsys):
    with pytest.raises(SystemExit):
        ask("--stage=cot", "--speed=2")
    assert "stage cot has none to choose; leave it out" in capsys.readouterr().err


def test_a_question_that_is_not_utf8(ask, capsys):
    with pytest.raises(SystemExit):
        ask(stdin="\nTom has \udcff shells.")
    assert "error: line 2 of standard input is not UTF-8: 'Tom has" in capsys.readouterr().err


@pytest.mark.parametrize("size", fast([1, 2, 256], 2))
def test_a_question_that_cannot_be_asked_is_named_by_its_line(ask, capsys, size):
    asked = f"\n{EXAMPLE.question}\n\n{EXAMPLE.question}\nTom has 7 ### apples."
    with pytest.raises(SystemExit):
        ask("--stage=no_cot", f"--config.eval.batch_size={size}", stdin=asked)
    assert "error: line 5 of standard input has '###' in it" in capsys.readouterr().err


def test_both_forms_of_a_flag_are_read(ask, finished):
    question = EXAMPLE.question
    apart = ask("--question", question, "--stage", "cot", "--json")
    assert apart == ask(f"--question={question}", "--stage=cot", "--json")
    assert json.loads(apart[0])["stage"] == "cot"

"""transformers answers after our thoughts what we answer, token by token, from what `--form=prompt_embeds` wrote."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from exchange.tiny_run import HIDDEN, MAX_ANSWER_TOKENS, given_run
from safetensors.numpy import load_file

import colar_jax
from colar_jax import export as command
from colar_jax.command_line import ASKED, run_main
from colar_jax.data.example_questions import EXAMPLES
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.exchange.prompt_embeds import export_prompt_embeds, prompt_embeds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUESTIONS = [example.question for example in EXAMPLES]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return given_run(tmp_path_factory.mktemp("run") / "run", stages=("colar", "cot", "codi"), projection=20)[0]


def written(folder):
    return json.loads((folder / "prompt_embeds.json").read_text()), load_file(folder / "prompt_embeds.safetensors")


@pytest.mark.parametrize("stage", ["colar", "codi", "cot"])
def test_transformers_answers_after_our_thoughts(run, stage, tmp_path):
    answers = assert_answered_after_our_thoughts(run, stage, tmp_path)
    assert len({tuple(answer.token_ids) for answer in answers}) > 1, "they differ from question to question"


def test_the_example_on_the_page_holds(run, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    section = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8").split("## For other engines")[1]
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "inputs_embeds" in block
    )
    export_stage(run, "colar", tmp_path / "exported")
    export_prompt_embeds(colar_jax.load(run.workdir, "colar"), QUESTIONS, tmp_path / "thought")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example, names)  # it asserts that the answers are the same
    assert len(names["index"]["prompts"]) == len(QUESTIONS)


def test_a_speed_that_is_told_as_a_number_is_in_the_embeddings(tmp_path):
    run, _ = given_run(tmp_path / "run", latent={"conditioning": "number"})
    assert_answered_after_our_thoughts(run, "colar", tmp_path)


def test_positions_that_count_tokens_are_refused(tmp_path):
    run, _ = given_run(tmp_path / "run", latent={"conditioning": "number", "timeline": "tokens"})
    with pytest.raises(UserError, match="numbers their positions one by one"):
        export_prompt_embeds(colar_jax.load(run.workdir, "colar"), QUESTIONS, tmp_path / "embeds")


def assert_answered_after_our_thoughts(run, stage, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    thinker = colar_jax.load(run.workdir, stage)
    index, tensors = written(export_prompt_embeds(thinker, QUESTIONS, tmp_path / "embeds"))
    answers = thinker.generate(QUESTIONS)
    model = AutoModelForCausalLM.from_pretrained(export_stage(run, stage, tmp_path / "model"), dtype=torch.float32)
    for prompt, answer in zip(index["prompts"], answers, strict=True):
        embeds = torch.tensor(tensors[prompt["tensor"]])[None]
        theirs = model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            do_sample=False,
            max_new_tokens=index["max_answer_tokens"],
        )[0].tolist()
        assert theirs == answer.token_ids.tolist() == prompt["token_ids"]
    return answers


def test_what_is_written(run, tmp_path):
    thinker = colar_jax.load(run.workdir, "colar")
    index, tensors = written(export_prompt_embeds(thinker, QUESTIONS, tmp_path / "embeds", temperature=1.0, seed=5))
    answers = thinker.generate(QUESTIONS, temperature=1.0, seed=5)
    embedding_VD = np.asarray(thinker.parameters["llama"]["embedding"])
    assert (index["hidden_size"], index["eos_id"], index["dtype"]) == (HIDDEN, run.tokenizer.eos_id, "float32")
    assert (index["stage"], index["max_answer_tokens"], len(tensors)) == ("colar", MAX_ANSWER_TOKENS, len(QUESTIONS))
    for prompt, answer in zip(index["prompts"], answers, strict=True):
        embeds_SD, start = tensors[prompt["tensor"]], prompt["prompt_tokens"]
        assert (prompt["question"], prompt["speed"]) == (answer.question, "2")
        assert embeds_SD.shape == (prompt["positions"], HIDDEN) and embeds_SD.dtype == np.float32
        assert prompt["positions"] == start + answer.num_latents + 1
        np.testing.assert_allclose(embeds_SD[start:-1], answer.latents, atol=1e-5)
        ids = thinker.prompts([answer.question], 2.0)[0].ids
        np.testing.assert_array_equal(embeds_SD[:start], embedding_VD[ids])
        np.testing.assert_array_equal(embeds_SD[-1], embedding_VD[run.tokenizer.separator_id])


def export(monkeypatch, workdir, *flags):
    monkeypatch.setattr(sys, "argv", ["export", f"--workdir={workdir}", "--form=prompt_embeds", *map(str, flags)])
    run_main(command.export, command.Flags, ASKED)


def test_the_limit_is_the_one_that_held(run, tmp_path):
    thinker = colar_jax.load(run.workdir, "colar")
    index, _ = written(export_prompt_embeds(thinker, QUESTIONS[:1], tmp_path / "embeds", max_answer_tokens=2))
    assert index["max_answer_tokens"] == 2 and len(index["prompts"][0]["token_ids"]) <= 2


def test_the_command_reads_a_file_of_questions(run, tmp_path, monkeypatch):
    file = tmp_path / "questions.txt"
    file.write_text("\n\n".join(QUESTIONS) + "\n")
    model = export_stage(run, "colar", tmp_path / "model")
    for workdir, stage in ((run.workdir, ["--stage=colar"]), (model, [])):
        out = tmp_path / f"of_{workdir.name}"
        export(monkeypatch, workdir, f"--out={out}", f"--questions={file}", "--dtype=bfloat16", "--speed=auto", *stage)
        index = json.loads((out / "prompt_embeds.json").read_text())
        assert [prompt["question"] for prompt in index["prompts"]] == QUESTIONS
        assert {prompt["speed"] for prompt in index["prompts"]} == {"auto"} and index["dtype"] == "bfloat16"
    of_run, of_model = (
        (tmp_path / f"of_{name}" / "prompt_embeds.safetensors").read_bytes() for name in ("run", "model")
    )
    assert len(of_run) == len(of_model)
    out = tmp_path / "one"
    export(monkeypatch, model, f"--out={out}", f"--question={QUESTIONS[0]}")
    assert len(written(out)[0]["prompts"]) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--form=prompt_embeds: name a file with --questions, or ask one --question"),
        (["--question=Tom?", "--questions=x"], "--form=prompt_embeds: name a file"),
        (["--questions=nothing.txt"], "--questions=nothing.txt: No such file"),
        (["--questions=."], "--questions=.: Is a directory"),
        (["--questions=empty.txt"], "--questions=empty.txt has no question in it"),
        (["--questions=latin.txt"], "latin.txt:2 is not UTF-8"),
        (["--question=Bob has 7 apples."], "the question, 'Bob has 7 apples.': the tokenizer does not know 'Bob'"),
        (["--question=Tom?", "--temperature=-1"], "--temperature=-1.0 is no number"),
        (["--question=Tom?", "--temperature=inf"], "--temperature=inf is no number"),
        (["--question=Tom?", "--seed=-1"], "--seed=-1 is no whole number"),
        (["--question=Tom?", "--speed=fast"], "'fast' is no thinking speed"),
        (["--question=Tom?", "--form=merged"], "--question is of --form=prompt_embeds alone"),
        (["--form=merged"], "is exported already; of it there is --form=prompt_embeds"),
    ],
)
def test_what_cannot_be_exported_is_one_line(run, tmp_path, monkeypatch, capsys, flags, message):
    workdir = export_stage(run, "colar", tmp_path / "model") if flags == ["--form=merged"] else run.workdir
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"\nTom\xe9?\n")
    with pytest.raises(SystemExit):
        export(monkeypatch, workdir, f"--out={tmp_path}/out", "--stage=colar", *flags)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ") and message in line and not (tmp_path / "out").exists()


def test_nothing_is_left_of_one_that_fails(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        export_prompt_embeds(colar_jax.load(run.workdir, "colar"), QUESTIONS[:1], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("recipe", [{"counts_tokens": True}, {"conditioning": "own"}])
def test_latents_that_embeddings_do_not_say_are_refused_one_by_one_too(recipe):
    """The function that docs/serving.md names, not the command alone."""
    recipe = types.SimpleNamespace(**{"counts_tokens": False, "conditioning": "number"} | recipe)
    thinker = types.SimpleNamespace(stage="colar", method=types.SimpleNamespace(recipe=recipe))
    with pytest.raises(UserError, match="stage colar (has latents on the chain's own timeline|chooses its own speed)"):
        prompt_embeds(thinker, None)

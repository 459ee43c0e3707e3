"""An exported folder's own PyTorch file, without this package, against our decoder."""

import dataclasses
import json
import types
import warnings

import numpy as np
import pytest
from cases import fast
from exchange.thinking_alike import assert_thinks_alike, torch_file_of
from exchange.tiny_run import given_run
from flax import nnx

from colar_jax.errors import UserError
from colar_jax.exchange import ways
from colar_jax.exchange.folder import export_stage
from colar_jax.model.presets import PRESETS
from colar_jax.thinker.asked import check_speed
from colar_jax.weights.families import FAMILIES

pytestmark = pytest.mark.slow


def test_the_torch_file_thinks_what_we_think(exported):
    pytest.importorskip("torch")
    assert_thinks_alike(*exported[:2], "colar", exported[2])


@pytest.mark.parametrize(
    ("latent", "greedy_stop"),
    [
        ({"conditioning": "number"}, "argmax"),
        ({"conditioning": "both"}, "half"),
        ({"conditioning": "number", "timeline": "tokens", "speeds": "2.5,1"}, "half"),
    ],
)
def test_the_torch_file_is_told_the_speed_as_we_tell_it(latent, greedy_stop, tmp_path):
    pytest.importorskip("torch")
    run, parameters = given_run(tmp_path / "run", latent=latent, greedy_stop=greedy_stop)
    folder = export_stage(run, "colar", tmp_path / "out")
    for speed in (None, "auto"):
        assert_thinks_alike(run, parameters, "colar", folder, speed)
    told = torch_file_of(folder).LatentReasoner.load(folder)._speed_embedding
    numbers = {2.5: 2.5, 1: 1.0, "auto": 0.0}
    ours = nnx.merge(run.graph, parameters).speed(np.array(list(numbers.values()), np.float32))
    for speed, expected in zip(numbers, ours, strict=True):
        np.testing.assert_allclose(told(speed).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("speed", ["fast", "0.5", 0, "nan", "1,2", "inf", 2.0000001, True, [2]])
def test_the_torch_file_refuses_what_is_no_speed(speed, exported):
    pytest.importorskip("torch")
    run, _, folder = exported
    with pytest.raises(ValueError, match="is no thinking speed: a number of at least 1"):
        torch_file_of(folder).LatentReasoner.load(folder).answer(
            run.tests["arithmetic"].problems[0].question, speed=speed
        )


def test_the_torch_file_refuses_a_speed_that_has_no_place_on_the_timeline(tmp_path):
    pytest.importorskip("torch")
    run, _ = given_run(tmp_path / "run", latent={"conditioning": "number", "timeline": "tokens"})
    reasoner = torch_file_of(folder := export_stage(run, "colar", tmp_path / "out")).LatentReasoner.load(folder)
    with pytest.raises(UserError) as ours:
        run.method("colar").recipe.told(2.344)
    with pytest.raises(ValueError, match="at most 2 decimals") as theirs:
        reasoner.answer("Eva has 5 pens.", speed="2.344")
    assert str(theirs.value) == str(ours.value)


def test_a_speed_of_the_command_line_is_said_as_in_training(exported, monkeypatch, capsys):
    """`2.0` is a prompt that nobody trained; the package says `2`."""
    pytest.importorskip("torch")
    run, _, folder = exported
    question, said = run.tests["arithmetic"].problems[0].question, []
    for speed in ("2", "2.0"):
        monkeypatch.setattr("sys.argv", ["colar_torch.py", question, "--folder", str(folder), "--speed", speed])
        torch_file_of(folder).main()
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    monkeypatch.setattr("sys.argv", ["colar_torch.py", question, "--folder", str(folder), "--speed", "fast"])
    with pytest.raises(SystemExit):
        torch_file_of(folder).main()
    assert "--speed" in capsys.readouterr().err


OTHER_METHODS = {
    "coconut": {"way": "hidden_states"},
    "coconut rescaled": {"way": "rescaled_states", "rescale": True},
    "ruplar": {"way": "superposition"},
    "latent_sft": {"way": "khot"},
    "codi": {"way": "projection", "projection": 20},
    "codi without a projection": {"way": "hidden_states"},
    "pccot": {"way": "swept", "projection": 20},
    "kava without a projection": {"way": "swept"},
    "adaptive": {"way": "chosen_stop", "projection": 20},
    "cot": {"way": "words"},
    "no_cot": {"way": "nothing"},
    "icot": {"way": "nothing"},
}


@pytest.mark.parametrize("case", list(OTHER_METHODS))
def test_other_methods_think_there_as_here(case, tmp_path):
    pytest.importorskip("torch")
    stage, options = case.split()[0], dict(OTHER_METHODS[case])
    way = options.pop("way")
    run, parameters = given_run(tmp_path / "run", stages=(stage,), **options)
    folder = export_stage(run, "", tmp_path / "out")
    assert_thinks_alike(run, parameters, stage, folder)
    facts = json.loads((folder / "thinking.json").read_text())
    assert (facts["way"], facts["method"]) == (way, stage)
    files = {path.name for path in folder.glob("*.safetensors")}
    of_latents = {"rescaled_states": {"latent_head.safetensors"}, "chosen_stop": {"stop_choice.safetensors"}}
    projection = {"projection.safetensors"} if "projection" in options else set()
    assert files == {"model.safetensors"} | of_latents.get(way, set()) | projection
    card = (folder / "README.md").read_text()
    assert ways.WAYS[way].format(num_thoughts=facts["max_thoughts"]) in card
    assert_takes_a_speed_as_we_do(run, stage, folder)
    has_speed = run.method(stage).has_speed
    assert ("There is no thinking speed to choose." in card, "--speed" in card) == (not has_speed, has_speed)


def assert_takes_a_speed_as_we_do(run, stage, folder):
    """Where there is none to choose it is refused; a folder of an earlier version does not say so, and goes on."""
    reasoner, method = torch_file_of(folder).LatentReasoner.load(folder), run.method(stage)
    if method.has_speed:
        assert reasoner.checked_speed("3") == 3
        return
    with pytest.raises(UserError) as ours:
        check_speed("3", method.recipe, has_speed=False, stage=stage)
    with pytest.raises(ValueError, match="none to choose") as theirs:
        reasoner.answer("Eva has 5 pens.", speed="3")
    assert str(theirs.value) == str(ours.value)
    del reasoner.settings["has_speed"]
    assert reasoner.checked_speed("3") == 3


@pytest.mark.parametrize("stage", fast(["colar", "cot"], "colar"))
@pytest.mark.parametrize("family", ["qwen3", "smollm3", "ministral", "olmo2", "gemma3_text"])
def test_other_families_think_there_as_here(family, stage, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    own = {
        "smollm3": {"layers": ("full", "no_rope")},
        "ministral": {"layers": ("sliding", "full"), "window": 256},
        "gemma3_text": {
            "layers": ("sliding", "full"), "window": 256, "sliding_rope_theta": 100.0, "query_scalar": 5,
        },
    }.get(family, {})  # fmt: skip
    config = dataclasses.replace(PRESETS["pico"], family=family, **FAMILIES[family].features, **own)
    monkeypatch.setitem(PRESETS, "pico", config)
    run, parameters = given_run(tmp_path / "run", stages=(stage,))
    assert_thinks_alike(run, parameters, stage, export_stage(run, "", tmp_path / "out"))


def test_the_command_of_an_exported_chain_of_thought(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    run, _ = given_run(tmp_path / "run", stages=("cot",))
    folder = export_stage(run, "cot", tmp_path / "out")
    question = run.tests["arithmetic"].problems[0].question
    monkeypatch.setattr("sys.argv", ["colar_torch.py", question, "--folder", str(folder)])
    torch_file_of(folder).main()
    assert "tokens of reasoning)" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["colar_torch.py", question, "--folder", str(folder), "--speed", "2"])
    with pytest.raises(SystemExit):
        torch_file_of(folder).main()
    assert "speed=2.0: stage cot has none to choose; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("cache_name", ["cache", "past_key_values"])
def test_the_torch_file_knows_both_names_of_the_cache(cache_name, exported):
    """transformers calls it `past_key_values` up to 5.23, both up to 5.39, and `cache` from then on."""
    torch = pytest.importorskip("torch")
    run, _, folder = exported
    reasoner = torch_file_of(folder).LatentReasoner.load(folder)
    model, question = reasoner.model, run.tests["arithmetic"].problems[0].question
    real = model.forward
    installed = reasoner._cache_name

    class Renamed(torch.nn.Module):
        get_input_embeddings = staticmethod(model.get_input_embeddings)

        if cache_name == "cache":

            def forward(self, inputs_embeds, cache, use_cache, output_hidden_states):
                return self.of(cache, inputs_embeds, use_cache, output_hidden_states)
        else:

            def forward(self, inputs_embeds, past_key_values, use_cache, output_hidden_states):
                return self.of(past_key_values, inputs_embeds, use_cache, output_hidden_states)

        def of(self, cache, *others):
            names = ("inputs_embeds", "use_cache", "output_hidden_states")
            out = real(**{installed: cache}, **dict(zip(names, others, strict=True)))
            renamed = {cache_name: getattr(out, installed)}
            return types.SimpleNamespace(hidden_states=out.hidden_states, logits=out.logits, **renamed)

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        plain = reasoner.answer(question)
        renamed = type(reasoner)(Renamed(), reasoner.tokenizer, reasoner.maker, reasoner.settings).answer(question)
    assert plain.answer_ids == renamed.answer_ids


def test_the_torch_file_says_what_its_tokenizer_cannot_read(exported, capsys):
    pytest.importorskip("torch")
    run, _, folder = exported
    reasoner = torch_file_of(folder).LatentReasoner.load(folder)
    capsys.readouterr()  # transformers' progress
    problems = run.tests["arithmetic"].problems
    for question in (problems[0].question, problems[1].question):
        reasoner.answer(question, max_answer_tokens=1)
    assert capsys.readouterr().err == ""
    for question, words in {
        "Eva has 150 apples. Each becomes 3.": "'150'",
        "Bob has 15 apples, 150 pens.": "'Bob', '150'",
        "Eva has 10 apples \N{EURO SIGN}": "'\N{EURO SIGN}'",
    }.items():
        reasoner.answer(question, max_answer_tokens=1)
        assert words in capsys.readouterr().err

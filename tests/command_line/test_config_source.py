"""Where a command's config comes from: a config file, the folder of a run, of several, or what can be asked."""

import json
from pathlib import Path

import pytest
from command_line.program import Flags, assert_refused

from colar_jax.command_line import ASKED, MODEL, RUN, RUNS
from colar_jax.config import Config, StageConfig, plain

PROJECT = Path(__file__).parents[2]
TINY = "--config=tiny.py"


def test_a_config_file_where_the_run_has_one(run, tmp_path):
    save_run(tmp_path / "a")
    line = (
        "--config is no flag of this program, which takes the config of the run in --workdir: change its settings by "
        "--config.some.setting=value"
    )
    assert_refused(run("--workdir=a", "--config=tiny.py", source=RUN), line)
    assert_refused(run("--workdir", "a", "--config", "/nonexistent.py", source=RUN), line)


def save_run(folder: Path, **changes) -> None:
    """The config of a run of before `eval.temperatures`, with CoT only."""
    settings = plain(Config(run="cot", stages={"cot": StageConfig()}, workdir="elsewhere", **changes))
    del settings["eval"]["temperatures"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))


def test_several_runs_each_with_its_own_config_and_the_flags_on_top(run, tmp_path):
    save_run(tmp_path / "a", seed=1)
    save_run(tmp_path / "b", seed=2)
    flags = ("--workdir=a, b", "--out=c", "--config.eval.temperatures=0.5,1", "--config.eval.seeds=3")
    configs = run(*flags, flags=Flags, source=RUNS).config
    assert [(config.workdir, config.seed) for config in configs] == [("a", 1), ("b", 2)]
    assert {(config.eval.temperatures, config.eval.seeds) for config in configs} == {("0.5,1", 3)}


def test_a_stage_that_one_run_lacks_is_left_out_of_that_run(run, tmp_path):
    save_run(tmp_path / "a")
    save_run(tmp_path / "b")
    settings = json.loads((tmp_path / "b" / "config.json").read_text())
    settings["stages"]["mine"] = settings["stages"]["cot"]
    (tmp_path / "b" / "config.json").write_text(json.dumps(settings))
    configs = run("--workdir=a,b", "--config.eval.stages=mine,cot", source=RUNS).config
    assert [config.eval.stages for config in configs] == ["cot", "mine,cot"]
    for flags in (["--workdir=a,b", "--config.eval.stages=mine"], ["--workdir=a,b", "--config.eval.stages=mine,cto"]):
        assert run(*flags, source=RUNS).status == 2, "a run would have nothing to do; a stage that is nobody's"


def test_what_is_wrong_for_a_run_names_it(run, tmp_path):
    save_run(tmp_path / "a")
    wrong = run("--workdir=a", "--config.eval.stages=colar", source=RUNS)
    assert_refused(wrong, "a: a stage of eval.stages='colar' is none of cot. Did you mean 'cot'?")
    nowhere = run("--workdir=a,none", source=RUNS)
    missing = f"--workdir=none: name the folder of a run; none/config.json does not exist in {tmp_path}"
    assert_refused(nowhere, missing)
    (tmp_path / "a" / "cot").mkdir()
    of_stage = run("--workdir=a/cot", source=RUNS)
    assert_refused(
        of_stage,
        f"{missing.replace('none', 'a/cot')}. {tmp_path}/a is one, and its stages are chosen with --config.eval.stages",
    )
    stray = run("--workdir=a", "--outt=b", flags=Flags, source=RUNS)
    assert_refused(stray, "a: --outt is no flag of this program. Did you mean '--out'?")


def test_what_is_of_a_model_and_no_run_says_what_to_do_with_it(run, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    assert_refused(
        run("--workdir=exported", source=RUNS),
        "exported/config.json is of a language model, and of no run: name the folder of a run",
    )
    (folder / "thinking.json").write_text("{}")
    for source in (RUN, RUNS):
        assert_refused(
            run("--workdir=exported", source=source),
            "--workdir=exported is an exported folder, and no run: in Python colar_jax.load('exported').evaluate("
            "problems) measures it (docs/python_api.md); here name the run that it was exported from",
        )


@pytest.mark.parametrize("source", [RUN, RUNS, ASKED, MODEL])
def test_the_flag_of_a_model_has_both_names(run, tmp_path, source):
    save_run(tmp_path / "a", seed=7)
    for name in ("workdir", "model"):
        config = run(f"--{name}=a", source=source).config
        assert (config[0] if source is RUNS else config).seed == 7
    assert_refused(
        run("--workdir=a", "--model=a", source=source),
        f"--{source.name} and --{source.also[0]} are two names of one flag: give one of them",
    )
    assert run(source=source).errors[0].startswith(f"error: --{source.name} is missing: name the folder of a run")


def test_a_comma_in_a_runs_name(run, tmp_path):
    for seed, name in enumerate(("a", "b,c", "d,", "a,b", ",e")):
        save_run(tmp_path / name, seed=seed)

    def found(text):
        return [config.workdir for config in run(f"--workdir={text}", source=RUNS).config]

    assert found("b,c") == ["b,c"]
    assert found("a,b,d,") == ["a,b", "d,"] and found(",e,a") == [",e", "a"]
    assert found("a, b,c ,a") == ["a", "b,c", "a"]
    assert found("a,,a") == ["a", "a"]
    assert run("--workdir=b,c", source=RUN).config.workdir == "b,c"
    assert run("--workdir=,", source=RUNS).status == 2

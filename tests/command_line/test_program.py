import dataclasses
import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from command_line.program import Ran

from colar_jax.command_line import ASKED, MODEL, RUN, RUNS, flag
from colar_jax.config import Config, StageConfig, plain
from colar_jax.errors import TrainingEnded, UserError
from colar_jax.methods import METHODS
from colar_jax.methods.codi import Codi

PROJECT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Flags:
    """One flag of each type."""

    out: str = flag("", "a folder")
    form: str = flag("whole", "how much of it", ("whole", "half"))
    times: int = flag(1, "how often")
    scale: float = flag(0.5, "how much")
    show: bool = flag(False, "whether to show it")


TINY = "--config=tiny.py"


# What is right


def test_a_config_file_alone(run):
    ran = run(TINY)
    assert (ran.status, ran.errors) == (0, [])
    stages = {"cot": StageConfig(method="cot", steps=10), "colar": StageConfig(method="colar", steps=20)}
    assert ran.config == Config(title="whole", stages=stages)


def test_what_follows_the_colon_is_the_files_argument(run):
    assert run("--config=tiny.py:small").config.title == "small"
    assert run("-config=tiny.py:a:b").config.title == "a:b"


def test_flags_override_the_file(run):
    config = run(
        TINY,
        "--config.stages.cot.steps=5",
        "--config.stages.colar.optimizer.learning_rate=1",
        "-config.stages.colar.latent.speeds=1.5,2",
        "--config.data.allow_overlap=true",
        "--config.eval.seeds",
        "2",
        "--config.title=a title",
    ).config
    assert config.stages["cot"].steps == 5
    assert config.stages["colar"].steps == 20
    assert config.stages["colar"].optimizer.learning_rate == 1.0
    assert config.stages["colar"].bound_method.speeds == "1.5,2"
    assert (config.data.allow_overlap, config.eval.seeds, config.title) == (True, 2, "a title")


def test_a_stage_whose_length_is_given_in_epochs(run):
    stage = run(TINY, "--config.stages.colar.epochs=3", "--config.stages.colar.steps=0").config.stages["colar"]
    assert (stage.steps, stage.epochs) == (0, 3.0)


def test_flags_of_the_method_and_the_trainer_that_flags_set(run):
    """A stage of the file has the settings of its own method only."""
    stages = run(
        TINY,
        "--config.stages.colar.codi.num_latents=4",
        "--config.stages.colar.method=codi",
        "--config.stages.cot.trainer",
        "grpo",
        "--config.stages.cot.rl.num_generations=4",
    ).config.stages
    assert stages["colar"].bound_method == Codi(num_latents=4)
    assert (stages["cot"].trainer, stages["cot"].rl.num_generations) == ("grpo", 4)


# One way to read it: both forms of every flag, before and after those of the config.
@pytest.mark.parametrize("is_apart", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_both_forms_of_every_flag(run, is_apart, is_first):
    own = {"out": "there", "form": "half", "times": "3", "scale": "-1.5"}
    of_config = {"config.seed": "4", "config.stages.cot.optimizer.learning_rate": "2e-3", "config.title": "a b"}
    pairs = (
        [*of_config.items(), *own.items()] if is_first else [*own.items(), ("config", "tiny.py"), *of_config.items()]
    )
    pairs += [("config", "tiny.py")] if is_first else []
    words = [word for name, value in pairs for word in ([f"--{name}", value] if is_apart else [f"--{name}={value}"])]
    ran = run(*words, "--show", flags=Flags)
    assert (ran.status, ran.errors) == (0, [])
    assert ran.flags == Flags("there", "half", 3, -1.5, True)
    assert (ran.config.seed, ran.config.title, ran.config.stages["cot"].optimizer.learning_rate) == (4, "a b", 2e-3)


def test_a_switch(run):
    for words, is_on in ((), False), (("--show",), True), (("--show=false",), False), (("--noshow",), False):
        assert run(TINY, *words, flags=Flags).flags.show is is_on
    assert run(TINY, "--noconfig.eval.greedy").config.eval.greedy is False
    assert run(TINY, "--config.data.allow_overlap").config.data.allow_overlap is True


def test_of_a_flag_given_twice_the_last_counts(run):
    words = ("--out=a", "--out", "b", "--config.seed=1", "--config.seed", "2", "--config=none.py", TINY)
    ran = run(*words, "--show", "--noshow", flags=Flags)
    assert (ran.flags.out, ran.flags.show, ran.config.seed) == ("b", False, 2)


def test_a_value_that_begins_with_a_dash(run):
    ran = run(TINY, "--out=--show", "--config.title=-x", "--config.model.latent_head.min_log_std", "-7", flags=Flags)
    assert (ran.flags, ran.config.title) == (Flags(out="--show"), "-x")
    assert ran.config.model.latent_head.min_log_std == -7


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--stagee=colar",), "--stagee is no flag of this program.*"),
        (("--ou=a",), "--ou is no flag of this program. Did you mean '--out'?"),  # no abbreviations
        (("--ou", "a"), "--ou is no flag of this program. Did you mean '--out'?"),
        (("--out", "--show"), "--out has no value: a value that begins with a dash is written --out=--show"),
        (("--out", "-show"), "--out has no value: a value that begins with a dash is written --out=-show"),
        (("--config.title", "-b"), "--config.title has no value: a value that begins .* is written --config.title=-b"),
        (("--out",), "Missing value for flag --out"),
        (("--show", "true"), "'true' is no flag: a switch takes its value as in --show=true"),
        (("--config.eval.greedy", "no"), "'no' is no flag: a switch takes its value as in --config.eval.greedy=no"),
        (("--noshow=true",), "--noshow=true does not take an argument"),
        (("--show=perhaps",), "flag --show=perhaps: true or false, not 'perhaps'"),
        (("--form=third",), "flag --form=third: value should be one of <whole|half>"),
        (("--times=many",), "flag --times=many: a whole number is wanted.*"),
        (("--times=1.5",), "flag --times=1.5: a whole number is wanted.*"),
        (("--scale=big",), "flag --scale=big: a number is wanted, not 'big'"),
        (("colar",), "'colar' is no flag: settings are given as --config.some.setting=value"),
        (("",), "'' is no flag: .*"),
        (("-",), "'-' is no flag: .*"),
        (("--", "--show"), "'--' is no flag: .*"),
        (("--show", "--"), "'--' is no flag: .*"),
        (("--=3",), "'--=3' is no flag: .*"),
        (("--out", "a", "b"), "'b' is no flag: .*"),
        (("--flagfile=x",), "--flagfile is no flag of this program: .*"),
        (("--undefok=stagee", "--stagee=3"), "--undefok is no flag of this program: .*"),
        (("--config.data=5",), r"--config.data: config.data is a group of settings \(.*"),
        (("--noconfig.seed",), "--noconfig.seed: config.seed is no switch; give it a value, --config.seed=value"),
    ],
)
def test_nothing_is_ignored(run, words, line):
    ran = run(TINY, *words, flags=Flags)
    assert (ran.status, ran.config, len(ran.errors)) == (2, None, 1)
    assert re.fullmatch(f"error: {line if '(' in line or '.*' in line else re.escape(line)}", ran.errors[0])


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


# What is wrong: one line, exit status 2, nothing ran


def assert_refused(ran: Ran, line: str):
    assert (ran.status, ran.errors, ran.config) == (2, [f"error: {line}"], None)


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--config.stages.cot.stepz=5", "config.stages.cot has no setting 'stepz'. Did you mean 'steps'?"),
        ("--config.stage.cot.steps=5", "config has no setting 'stage'. Did you mean 'stages'?"),
        ("--config.stages.cott.steps=5", "config.stages has no setting 'cott'. Did you mean 'cot'?"),
        ("-config.decode.topp=1", "config.decode has no setting 'topp'. Did you mean 'top_p'?"),
        (
            "--config.optimiser=adamw",
            "config has no setting 'optimiser'. The setting is config.stages.cot.optimizer.name "
            "(or of another stage: colar).",
        ),
        ("--config.data.train.path=x", "config.data.train has no setting 'path'."),
    ],
)
def test_a_misspelt_flag_is_told_the_nearest_right_one(run, flag, what):
    assert_refused(run(TINY, flag), f"--{flag.strip('-').partition('=')[0]}: {what}")


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--config.stages.cot.steps=many", "a whole number is wanted, not 'many'"),
        ("--config.stages.cot.steps=1.5", "a whole number is wanted, not '1.5'"),
        ("--config.stages.cot.steps=", "a whole number is wanted, not ''"),
        ("--config.stages.cot.optimizer.learning_rate=", "a number is wanted, not ''"),
        ("--config.decode.top_p=1,5", "a number is wanted, not '1,5'"),
    ],
)
def test_a_value_of_the_wrong_type(run, flag, what):
    assert_refused(run(TINY, flag), f"flag {flag}: {what}")


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        (
            "--config.stages.cot.method=codo",
            "config.stages.cot.method='codo' is none of " + ", ".join(METHODS) + ". Did you mean 'codi'? A method of "
            "your own is named as package.module:NAME",
        ),
        (
            "--config.stages.colar.epochs=3",
            "--config.stages.colar.epochs does nothing beside config.stages.colar.steps=20: add "
            "--config.stages.colar.steps=0, or set steps",
        ),
        ("--config.run=cot,cot", "run names the stage 'cot' twice: name each once"),
        ("--config.eval.stages=cot,colar,cot", "eval.stages names the stage 'cot' twice: name each once"),
        (
            "--config.stages.cot.optimizer.final_fraction=-1",
            "config.stages.cot: optimizer.final_fraction=-1.0 is not between 0 and 1: a share of the learning rate",
        ),
        ("config.seed=5", "'config.seed=5' is no flag: settings are given as --config.some.setting=value"),
        ("--config.seed", "Missing value for flag --config.seed"),
        ("--config.decode.top_p=2", "decode.top_p=2.0 is not in (0, 1]"),
        ("--config.decode.top_p=nan", "config.decode.top_p=nan is not a finite number"),
        ("--config.run=cot,color", "a stage of run='color' is none of colar, cot. Did you mean 'colar'?"),
        (
            "--config.eval.speeds=fast",
            "'fast' of eval.speeds='fast' is no thinking speed: a number of at least 1 (tokens per latent) with at "
            "most six digits, or auto",
        ),
    ],
)
def test_a_wrong_setting(run, flag, line):
    assert_refused(run(TINY, flag), line)


@pytest.mark.parametrize("arguments", [(), ("--config=",), ("--config", ""), ("--config.seed=1",)])
def test_no_config(run, arguments):
    assert_refused(run("--config"), "Missing value for flag --config")
    expected = "name a config: --config=configs/arithmetic.py (and --config.some.setting=value to change it)"
    assert_refused(run(*arguments), expected)


def test_a_mistake_that_the_program_finds(run):
    def main(config):
        raise UserError("no such data")

    assert_refused(run(TINY, main=main), "no such data")


def test_a_disk_that_refuses_is_one_line_whatever_a_library_makes_of_it(run):
    def main(config):
        raise Exception("No space left on device (os error 28)")  # as tokenizers, on saving

    assert_refused(run(TINY, main=main), "No space left on device, says the disk that is written to")


def test_a_training_that_cannot_go_on_is_one_line(run):
    """A loss that is not finite, a policy that collapsed, a device without memory: no traceback explains it."""

    def diverged(config):
        raise TrainingEnded("stage cot: not finite at step 3")

    def full(config):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")

    ran = run(TINY, main=diverged)
    assert (ran.status, ran.errors) == (1, ["error: stage cot: not finite at step 3"])
    ran = run(TINY, main=full)
    assert ran.status == 1 and len(ran.errors) == 1
    assert "model.remat=full" in ran.errors[0] and "allocate 8 bytes" in ran.errors[0]


def test_a_fault_of_the_program_keeps_its_traceback(run):
    def main(config):
        raise ValueError("a shape that should have been another")

    with pytest.raises(ValueError, match="a shape"):
        run(TINY, main=main)


def test_a_flag_that_is_no_setting(run):
    ran = run(TINY, "--confg.seed=5")
    assert (ran.status, len(ran.errors), ran.config) == (2, 1, None)
    assert ran.errors == ["error: --confg.seed is no flag of this program. The setting is config.seed."]


def test_training_itself():
    """As a user starts it: the shell's exit status, and nothing but the one line."""
    flag = "--config.stages.colar.latent.speed=2"
    command = [sys.executable, "-m", "colar_jax.train", "--config=configs/arithmetic.py:smoke", flag]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    line = (
        "--config.stages.colar.latent.speed: config.stages.colar.latent has no setting 'speed'. Did you mean 'speeds'?"
    )
    assert (ended.returncode, ended.stderr.splitlines(), ended.stdout) == (2, [f"error: {line}"], "")


@pytest.mark.parametrize("program", ["train", "evaluate", "generate", "export", "import_published", "plan"])
def test_help_of_every_program(program, capsys):
    """Its docstring, its own flags, and the settings with what the source says of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, "--help", "--config=not_read.py"][: 2 + (program in TAKE_A_CONFIG)])
        runpy.run_path(str(PROJECT / "colar_jax" / f"{program}.py"), run_name="__main__")
    module = importlib.import_module(f"colar_jax.{program}")
    printed = capsys.readouterr().out
    assert printed.startswith(module.__doc__)
    own = [field.name for field in dataclasses.fields(module.Flags)] if hasattr(module, "Flags") else []
    for name in ("config" if program in TAKE_A_CONFIG else "workdir", *own):
        assert f"\n  --{name}=" in printed
    assert "\n  --config.stages.<stage>.rows=16\n      Packed rows in one optimizer step, over all devices" in printed


TAKE_A_CONFIG = ("train", "import_published", "plan")

"""What flags make of a config, and of a program's own flags."""

import dataclasses
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from command_line.program import Flags

from colar_jax.config import Config, StageConfig
from colar_jax.methods.codi import Codi

PROJECT = Path(__file__).parents[2]
TINY = "--config=tiny.py"


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

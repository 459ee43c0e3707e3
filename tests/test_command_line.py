import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from colar_jax.command_line import flag_value, has_switch, run_main, run_main_on_runs
from colar_jax.config import Config, StageConfig, defaults, stage_defaults
from colar_jax.errors import UserError

PROJECT = Path(__file__).parents[1]

CONFIG_FILE = """
from colar_jax.config import defaults, stage_defaults

def get_config(argument=""):
    config = defaults()
    config.title = argument or "whole"
    config.stages.cot = stage_defaults(method="cot", steps=10)
    config.stages.colar = stage_defaults(method="colar", steps=20)
    return config
"""


@dataclasses.dataclass(frozen=True)
class Ran:
    config: Config | None  # what the program was called with
    status: int
    errors: list[str]  # the lines on stderr


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run(*arguments)` of a program that takes a config, in a folder with one config file, tiny.py."""
    (tmp_path / "tiny.py").write_text(CONFIG_FILE)
    monkeypatch.chdir(tmp_path)
    known_flags = set(flags.FLAGS)

    def run(*arguments, main=None, runner=run_main, **options):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        called, status = [], 0
        try:
            runner(main or called.append, **options)
        except SystemExit as stop:
            status = stop.code
        finally:  # absl's flags belong to the process
            for name in set(flags.FLAGS) - known_flags:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
        return Ran(called[0] if called else None, status, capsys.readouterr().err.splitlines())

    return run


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
    assert config.stages["colar"].latent.speeds == "1.5,2"
    assert (config.data.allow_overlap, config.eval.seeds, config.title) == (True, 2, "a title")


def test_a_program_may_load_its_config_from_elsewhere(run):
    def load():
        config = defaults()
        config.update(title=flag_value("workdir"), run="cot")
        config.stages.cot = stage_defaults()
        return config

    config = run("--workdir=some/folder", "--config.seed=4", load=load, own_flags=("workdir",)).config
    assert (config.title, config.seed) == ("some/folder", 4)
    assert run("--workdir=some/folder", "--config.seed=4", load=load).status == 2  # a flag that is nobody's


def test_value_of_a_flag(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["--a=9", "--a=0", "--a=1", "-b=x=y", "--ab=2"])
    assert [flag_value(name) for name in ("a", "b", "ab", "c")] == ["1", "x=y", "2", ""]


def save_run(folder: Path, **changes) -> None:
    """The config of a run of before `eval.temperatures`, with CoT only."""
    settings = dataclasses.asdict(Config(run="cot", stages={"cot": StageConfig()}, workdir="elsewhere", **changes))
    del settings["eval"]["temperatures"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))


def test_several_runs_each_with_its_own_config_and_the_flags_on_top(run, tmp_path):
    save_run(tmp_path / "a", seed=1)
    save_run(tmp_path / "b", seed=2)
    flags = ("--workdir=a, b", "--out=c", "--config.eval.temperatures=0.5,1", "--config.eval.seeds=3")
    configs = run(*flags, runner=run_main_on_runs, own_flags=("out",)).config
    assert [(config.workdir, config.seed) for config in configs] == [("a", 1), ("b", 2)]
    assert {(config.eval.temperatures, config.eval.seeds) for config in configs} == {("0.5,1", 3)}


def test_what_is_wrong_for_a_run_names_it(run, tmp_path):
    save_run(tmp_path / "a")
    wrong = run("--workdir=a", "--config.eval.stages=colar", runner=run_main_on_runs)
    assert_refused(wrong, "a: a stage of eval.stages='colar' is none of cot. Did you mean 'cot'?")
    nowhere = run("--workdir=a,none", runner=run_main_on_runs)
    assert_refused(nowhere, "--workdir=none: name the folder of a run; none/config.json does not exist")
    stray = run("--workdir=a", "--outt=b", runner=run_main_on_runs, own_flags=("out",))
    assert stray.status == 2 and "outt" in stray.errors[0]


def test_a_switch_takes_no_value(run):
    for given, is_set in (["--show"], True), (["--show=true"], True), (["--show=false"], False), ([], False):
        asked = []

        def ask(config, asked=asked):
            asked.append(has_switch("show"))

        ran = run(TINY, *given, "--config.seed=4", main=ask, own_switches=("show",))
        assert (ran.status, asked) == (0, [is_set])
    assert run(TINY, "--show").status == 2  # a switch that is nobody's


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
        ("--config.data.train.path=x", "config.data.train has no setting 'path'."),
    ],
)
def test_a_misspelt_flag_is_told_the_nearest_right_one(run, flag, what):
    assert_refused(run(TINY, flag), f"--{flag.strip('-').partition('=')[0]}: {what}")


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--config.stages.cot.steps=many", "invalid literal for int() with base 10: 'many'"),
        ("--config.stages.cot.steps=1.5", "invalid literal for int() with base 10: '1.5'"),
        ("--config.stages=5", "Failed to parse '5' as a ConfigDict: `5` is not a dict."),
    ],
)
def test_a_value_of_the_wrong_type(run, flag, what):
    assert_refused(run(TINY, flag), f"flag {flag}: {what}")


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("config.seed=5", "'config.seed=5' is no flag: settings are given as --config.some.setting=value"),
        ("--config.seed", "Missing value for flag --config.seed"),
        ("--config.decode.top_p=2", "decode.top_p=2.0 is not in (0, 1]"),
        ("--config.decode.top_p=nan", "config.decode.top_p=nan is not a finite number"),
        ("--config.run=cot,color", "a stage of run='color' is none of colar, cot. Did you mean 'colar'?"),
        (
            "--config.eval.speeds=fast",
            "'fast' is no thinking speed: a number of at least 1 (tokens per latent), or auto",
        ),
    ],
)
def test_a_wrong_setting(run, flag, line):
    assert_refused(run(TINY, flag), line)


@pytest.mark.parametrize(
    "arguments", [(), ("--config",), ("--config", "tiny.py"), ("--config=",), ("--config.seed=1",)]
)
def test_no_config(run, arguments):
    expected = "name a config: --config=configs/arithmetic.py (and --config.some.setting=value to change it)"
    assert_refused(run(*arguments), expected)


def test_a_config_file_that_is_not_there(run):
    assert_refused(
        run("--config=tinny.py:smoke"), "--config=tinny.py:smoke: there is no file tinny.py. Did you mean 'tiny.py'?"
    )
    assert_refused(run("--config=none/such.py"), "--config=none/such.py: there is no file none/such.py.")


def test_a_config_file_without_get_config(run, tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert_refused(run("--config=empty.py"), "empty.py has no function get_config(argument)")


def test_a_mistake_in_the_config_file(run, tmp_path):
    wrong = CONFIG_FILE.replace("steps=10", "stepz=10")
    (tmp_path / "wrong.py").write_text(wrong)
    assert_refused(run("--config=wrong.py"), "config.stages.cot.stepz is no setting. Did you mean 'steps'?")
    for fault, kind in {"argument and argument[7] or": IndexError, "argument + 1 or": TypeError}.items():
        (tmp_path / "wrong.py").write_text(CONFIG_FILE.replace("argument or", fault))
        with pytest.raises(kind):  # a fault of the program keeps its traceback
            run("--config=wrong.py:small")


def test_a_wrong_type_in_the_config_file(run, tmp_path):
    (tmp_path / "wrong.py").write_text(CONFIG_FILE.replace('config.title = argument or "whole"', "config.seed = 1.5"))
    ran = run("--config=wrong.py")
    assert ran.status == 2
    assert ran.errors[0].startswith("error: wrong.py, line 6: ") and "seed" in ran.errors[0]


def test_a_mistake_that_the_program_finds(run):
    def main(config):
        raise UserError("no such data")

    assert_refused(run(TINY, main=main), "no such data")


def test_a_fault_of_the_program_keeps_its_traceback(run):
    def main(config):
        raise ValueError("a shape that should have been another")

    with pytest.raises(ValueError, match="a shape"):
        run(TINY, main=main)


def test_a_flag_that_is_no_setting(run):
    ran = run(TINY, "--confg.seed=5")
    assert (ran.status, len(ran.errors), ran.config) == (2, 1, None)
    assert ran.errors[0].startswith("error: Unknown command line flag 'confg.seed'")


def test_training_itself():
    """As a user starts it: the shell's exit status, and nothing but the one line."""
    flag = "--config.stages.colar.latent.speed=2"
    command = [sys.executable, "-m", "colar_jax.train", "--config=configs/arithmetic.py:smoke", flag]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    line = (
        "--config.stages.colar.latent.speed: config.stages.colar.latent has no setting 'speed'. Did you mean 'speeds'?"
    )
    assert (ended.returncode, ended.stderr.splitlines(), ended.stdout) == (2, [f"error: {line}"], "")

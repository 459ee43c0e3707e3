"""What is wrong is one line on standard error with exit status 2, and nothing runs."""

from pathlib import Path

import jax
import pytest
from command_line.program import assert_refused

from colar_jax.errors import TrainingEnded, UserError
from colar_jax.methods import METHODS

PROJECT = Path(__file__).parents[2]
TINY = "--config=tiny.py"


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
        ("--config.decode.top_p=nan", "config.decode.top_p=nan is not a finite number in float32"),
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

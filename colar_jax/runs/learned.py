"""What a stage learns from, and is validated on: the run's problems, or what its method makes of them."""

from collections.abc import Callable

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.data.readable import DecodeRoom, encode_readable
from colar_jax.methods import Method
from colar_jax.methods.shorter_chains import Concise, DroppedSteps
from colar_jax.runs.own_chains import shortest_right, without_some_steps
from colar_jax.runs.run import Run
from colar_jax.runs.speed_labels import labelled

# What needs the run: a model that is asked, or what another stage has left.
_MADE_BY: dict[type[Method], Callable[[Run, str], list[Problem]]] = {
    Concise: shortest_right,
    DroppedSteps: without_some_steps,
}


def training_set(run: Run, name: str) -> EncodedProblems:
    """The problems that a stage learns from, encoded."""
    method = run.method(name)
    if method.learns_from_answers:
        return labelled(run, name)
    if type(method) in _MADE_BY:
        return _encoded(run, name, _MADE_BY[type(method)](run, name))
    return _made(run, name, run.train, run.train_problems)


def is_in_the_data(run: Run, name: str) -> bool:
    """Whether a stage's training set is there before anything is trained: no model has to be asked for it."""
    return not run.method(name).learns_from_answers and type(run.method(name)) not in _MADE_BY


def validation_set(run: Run, name: str) -> EncodedProblems:
    """The problems that a stage is validated on, encoded."""
    return _made(run, name, run.val, list(run.val.problems))


def _made(run: Run, name: str, encoded: EncodedProblems, problems: list[Problem]) -> EncodedProblems:
    made = run.method(name).problems_of(problems, run.seed_of(name))
    return encoded if made is problems else _encoded(run, name, list(made))


def _encoded(run: Run, name: str, problems: list[Problem]) -> EncodedProblems:
    config, room = run.config, DecodeRoom(run.config.decode.max_answer_tokens)
    return encode_readable(f"{name}'s problems", problems, run.tokenizer, run.speeds, config.data, room)

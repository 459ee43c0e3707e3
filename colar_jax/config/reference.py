"""The settings as a list, made from the dataclasses that declare them: for `--help`, docs/settings.md and messages."""

import ast
import dataclasses
import functools
import inspect
import io
import textwrap
import tokenize
import types
import typing

from colar_jax.config.run_settings import Config
from colar_jax.methods import METHODS, Method
from colar_jax.settings.on_resume import OnResume, on_resume


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a run."""

    path: str  # such as stages.<stage>.optimizer.learning_rate
    type: str
    default: object
    comment: str  # what the source says beside it
    on_resume: OnResume  # whether it may change between a stop and a resume
    group: type  # the dataclass that declares it


def settings(kind: type = Config, path: str = "") -> list[Setting]:
    """All settings of a dataclass and of the groups in it, in the order of the source."""
    hints, comments = typing.get_type_hints(kind), field_comments(kind)
    found = []
    for field in dataclasses.fields(kind):
        of, name = hints[field.name], f"{path}{field.name}"
        if of == Method | None:  # of a stage: each method has a group of its own
            for method in METHODS.values():
                found += settings(method, f"{path}{method.group}.")
        elif dataclasses.is_dataclass(of):
            found += settings(of, f"{name}.")
        elif isinstance(of, types.GenericAlias):  # dict[str, StageConfig]
            found += settings(typing.get_args(of)[1], f"{name}.<{field.name.removesuffix('s')}>.")
        else:
            comment = comments.get(field.name, "")
            found.append(Setting(name, of.__name__, field.default, comment, on_resume(field), kind))
    return found


@functools.cache
def field_comments(kind: type) -> dict[str, str]:
    """What the comments of a dataclass say of its fields: those on the lines before a field, and those behind it.

    The fields that it has from another dataclass are among them.
    """
    inherited = [base for base in reversed(kind.__mro__[1:]) if dataclasses.is_dataclass(base)]
    return {name: comment for base in (*inherited, kind) for name, comment in _own_comments(base).items()}


def _own_comments(kind: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(kind))
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if not token.line[: token.start[1]].strip():
                alone.add(token.start[0])
    of_fields = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            lines = [comments[line] for line in range(first, node.end_lineno + 1) if line in comments]
            of_fields[node.target.id] = " ".join(lines)
    return of_fields

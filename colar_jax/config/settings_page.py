"""docs/settings.md, from the dataclasses of the settings.

python -m colar_jax.config.settings_page > docs/settings.md
"""

import inspect
import itertools

from colar_jax.config.names import OTHER_NAMES
from colar_jax.config.reference import Setting, settings
from colar_jax.settings.on_resume import OnResume

_HEAD = """\
# Settings

Every setting of a run, with its default. This page is made from the source:
`python -m colar_jax.config.settings_page > docs/settings.md`.

A config file sets them as `config.data.train = "my.jsonl"`, a flag as `--config.data.train=my.jsonl` (or
`--config.data.train my.jsonl`; of a flag that is given twice the last counts). `<stage>` is the name of a stage, as in
`--config.stages.colar.rows=8`. A name that does not exist is refused, with the nearest one that does, and so is a value
of another type or out of range. Every program prints this list, and its own flags, with `--help`.

A stage has the settings of its own method (`latent` belongs to colar, `khot` to colar_khot, the others to the
method of their name) and, where its trainer is `grpo`, those under `rl`; settings of another method are refused.
Such a stage has no `rows` and `row_positions`: its rows are rollouts (`rl.minibatch_size`).

What may change when a run goes on from its checkpoint is in the column *on resume*: settings marked *free* may; those
marked *ask* may with `--accept_changes`; *RL* belong to a stage that is trained by rewards, and are free in others; the
rest belong to the run: with another value it is another run.

Of the environment, `JAX_PLATFORMS=cpu` (or `cuda`, `tpu`) says what to compute on. Text is UTF-8 whatever the locale
says. `JAX_ENABLE_X64` is refused: the program computes in 32 bits or fewer (`model.dtype`). A flag in `XLA_FLAGS` that
XLA does not know makes XLA end the process, with the name of the flag."""

# Of the settings outside these no checkpoint knows.
_KNOWN_TO_CHECKPOINTS = ("seed", "data.", "model.", "stages.", "decode.")
_OF_REWARDS = ("decode.", "data.verifier", "stages.<stage>.rl.")
_MARKS = {OnResume.BINDS: "", OnResume.ADJUSTABLE: "ask", OnResume.EXECUTION: "free", OnResume.OBSERVING: "free"}


def settings_page() -> str:
    """The page, in Markdown."""
    lines = [_HEAD]
    for (kind, place), found in itertools.groupby(_sorted(settings()), key=lambda one: (one.group, _place(one))):
        title = f"`{place}`" if place else "The run"
        lines += ["", f"## {title}", "", _one_line((inspect.getdoc(kind) or "").partition("\n\n")[0]), ""]
        lines += ["| setting | type | default | on resume | |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(one) for one in found]
    lines += ["", "## Names of other programs", "", "Who types one of these is told the setting.", ""]
    lines += ["| name | setting |", "| --- | --- |"]
    lines += [f"| `{name}` | `{place.replace('*', '<stage>')}` |" for name, place in OTHER_NAMES.items()]
    return "\n".join(lines)


def _place(setting: Setting) -> str:
    return setting.path.rpartition(".")[0]


def _sorted(found: list[Setting]) -> list[Setting]:
    """Each group whole, in the order in which groups begin."""
    places = list(dict.fromkeys(map(_place, found)))
    return sorted(found, key=lambda one: places.index(_place(one)))


def _row(setting: Setting) -> str:
    name = setting.path.rpartition(".")[2]
    default = "empty" if setting.default == "" else f"`{setting.default}`"
    return f"| `{name}` | {setting.type} | {default} | {_mark(setting)} | {_cell(setting.comment)} |"


def _mark(setting: Setting) -> str:
    if not setting.path.startswith(_KNOWN_TO_CHECKPOINTS):
        return "free"
    mark = _MARKS[setting.on_resume]
    return mark or ("RL" if setting.path.startswith(_OF_REWARDS) else "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(settings_page())

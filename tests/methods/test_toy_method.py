"""A new method is one file and one line of the registry: this one is written here, and nothing of the package changes.

"Echo": before it answers it reads the separator again, twice. It is trained as it is decoded: the echoes are its steps.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.data.recipe import Recipe
from colar_jax.decoding.thinking import Thought
from colar_jax.errors import UserError
from colar_jax.methods import METHODS, find_method
from colar_jax.methods.method import Method, Thinking
from colar_jax.metric_writer import read_metrics
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare

NUM_ECHOES = 2


@dataclasses.dataclass(frozen=True)
class Echo(Method):
    @property
    def recipe(self) -> Recipe:
        return Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED)

    def make_loader(self, encoded, *, seed, rows, row_positions):
        echoes = (np.full(NUM_ECHOES, encoded.separator_id, np.int32),) * len(encoded)
        encoded = dataclasses.replace(encoded, steps=echoes)
        return super().make_loader(encoded, seed=seed, rows=rows, row_positions=row_positions)

    def thinking(self, decode, separator_id, *, greedy):
        def think(model, hidden_BD, keys_B):
            rows = hidden_BD.shape[0]
            ids_B = jnp.full(rows, separator_id, jnp.int32)
            zeros_B = jnp.zeros(rows, jnp.float32)
            embed_BD = model.llama.embedding[...][ids_B].astype(hidden_BD.dtype)
            return Thought(embed_BD, ids_B, zeros_B, jnp.ones(rows, bool), zeros_B)

        return Thinking(think, max_thoughts=NUM_ECHOES, min_thoughts=NUM_ECHOES)


@pytest.mark.slow
def test_a_method_from_outside_trains_and_decodes(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "echo", Echo)
    config = tiny_config_dict(tmp_path / "run", run="echo")
    config.stages.echo = stage_defaults(method="echo", steps=2, rows=2, row_positions=160, log_every=1)
    (greedy, sampled) = pipeline.train(resolve(config))
    assert (greedy.stage, greedy.speed, sampled.sampling) == ("echo", "-", "sampled")
    assert (greedy.lengths_SN == NUM_ECHOES).all() and not greedy.forced_stops_SN.any()
    run = prepare(resolve(config))
    read = Echo().make_loader(run.train, seed=0, rows=2, row_positions=160).batch(0).token_ids_BT[0].tolist()
    assert "".join(" #"[id == run.train.separator_id] for id in read).split()[0] == "####", (
        "it opens, echoes, and closes"
    )
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "echo") if "loss" in line]
    assert losses and np.isfinite(losses).all()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["stages"]["echo"]["method"] == "echo"


def test_without_its_line_it_is_not_there():
    with pytest.raises(UserError, match=r"method='echo' is none of no_cot, cot, colar, icot, coconut, codi"):
        stage_defaults(method="echo", steps=2)


@pytest.mark.slow
def test_a_method_by_its_import_path_trains_and_decodes(tmp_path, monkeypatch):
    (tmp_path / "toy_from_elsewhere.py").write_text(f"from {__name__} import Echo as Mine")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Echo.__module__])
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_config_dict(tmp_path / "run", run="mine")
    config.stages.mine = stage_defaults(
        method="toy_from_elsewhere:Mine", steps=1, rows=2, row_positions=160, log_every=1
    )
    (greedy, _) = pipeline.train(resolve(config))
    assert (greedy.method, greedy.stage) == ("toy_from_elsewhere:Mine", "mine")
    assert (greedy.lengths_SN == NUM_ECHOES).all()


def test_the_example_of_the_docs_is_a_method(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(# my_methods\.py.*?)```", page, re.DOTALL)
    (tmp_path / "my_methods_of_docs.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    method = find_method("my_methods_of_docs:Answer")
    assert method().recipe.prompt_speeds == (1.0,)


_IMPORTS = "import dataclasses\nfrom colar_jax.methods.cot import Cot\n"


def _with(kind: str, setting: str, group: str = "mine") -> str:
    """A method of one's own, as source."""
    return f"@dataclasses.dataclass(frozen=True)\nclass {kind}(Cot):\n    group = {group!r}\n    {setting}\n"


def test_a_group_that_every_stage_has_is_refused(tmp_path, monkeypatch):
    """Else its settings would be read in the place of the optimizer's."""
    (tmp_path / "group_of_mine.py").write_text(_IMPORTS + _with("Mine", "x: int = 1", group="optimizer"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="'group_of_mine:Mine' calls its settings 'optimizer', as every stage has"):
        stage_defaults(method="group_of_mine:Mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("color", "stages.a.method='color' is none of .*Did you mean 'colar'.*package.module:NAME"),
        ("nowhere.at_all:X", "stages.a.method='nowhere.at_all:X' cannot be imported: ModuleNotFoundError"),
        ("math:nothing", "cannot be imported: AttributeError: module 'math' has no attribute 'nothing'"),
        ("math:pi", "is of type float: a subclass of methods.method.Method is wanted"),
        ("colar_jax.methods.method:Method", "does not say all that a method has to: recipe, thinking"),
        ("colar_jax.methods.method:Counts", "is the class Counts: a subclass of methods.method.Method is wanted"),
        (":", "names nothing: write package.module:NAME"),
        ("math:", "names nothing"),
        (":Colar", "names nothing"),
        ("a b:c", "cannot be imported"),
        ("math:pi:e", "cannot be imported"),
        ("..math:pi", "cannot be imported"),
        ("", "stages.a.method='' is none of"),
        ("settings_of_mine:Maybe", "its setting 'x' has to be a bool, int, float or str with a default"),
        ("settings_of_mine:Several", "its setting 'x' has to be a bool"),
        ("settings_of_mine:Needed", "its setting 'x' has to be .* with a default"),
        (
            "settings_of_mine:Bare",
            r"declares settings \(strength\) and is no dataclass itself: put @dataclasses.dataclass",
        ),
        ("broken_module_of_mine:X", "cannot be imported: SyntaxError"),
        ("raising_module_of_mine:X", "cannot be imported: ValueError|cannot be imported: out of order"),
    ],
)
def test_no_method_is_one_line(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_mine.py").write_text("def f(:")
    (tmp_path / "raising_module_of_mine.py").write_text("raise ValueError('out of order')")
    classes = {"Maybe": "x: float | None = None", "Several": "x: tuple[int, ...] = (1, 2)", "Needed": "x: int"}
    sources = [_with(kind, setting) for kind, setting in classes.items()]
    bare = "class Bare(Cot):\n    group = 'mine'\n    strength: float = 1.0\n"
    (tmp_path / "settings_of_mine.py").write_text(_IMPORTS + "".join([*sources, bare]))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        find_method(name, "stages.a.method")
    assert "\n" not in str(refused.value)

"""A new method is one file and one line of the registry: this one is written here, and nothing of the package changes.

"Echo": before it answers it reads the separator again, twice. It is trained as it is decoded: the echoes are its steps.
"""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from pipeline.tiny import tiny_config_dict

from colar_jax import pipeline
from colar_jax.config import resolve, stage_defaults
from colar_jax.data.loader import Recipe
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.thinking import Thought
from colar_jax.methods import METHODS
from colar_jax.methods.method import Method, Thinking, language_objective, packed_loader
from colar_jax.metric_writer import read_metrics
from colar_jax.run import prepare

NUM_ECHOES = 2


def _thinking(decode, separator_id, dtype, greedy):
    def think(model, hidden_BD, keys_B):
        rows = hidden_BD.shape[0]
        ids_B = jnp.full(rows, separator_id, jnp.int32)
        zeros_B = jnp.zeros(rows, jnp.float32)
        embed_BD = model.llama.embedding[...][ids_B].astype(dtype)
        return Thought(embed_BD, ids_B, zeros_B, jnp.ones(rows, bool), zeros_B)

    return Thinking(think, max_thoughts=NUM_ECHOES, min_thoughts=NUM_ECHOES)


def _make_loader(method, encoded, stage, seed):
    echoes = (np.full(NUM_ECHOES, encoded.separator_id, np.int32),) * len(encoded)
    return packed_loader(method, dataclasses.replace(encoded, steps=echoes), stage, seed)


ECHO = Method(
    recipe=lambda stage: Recipe(speeds=(1.0,), prompt_speed=AUTO_SPEED),
    objective=language_objective,
    thinking=_thinking,
    trains_latent_head=False,
    make_loader=_make_loader,
)


def test_a_method_from_outside_trains_and_decodes(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "echo", ECHO)
    config = tiny_config_dict(tmp_path / "run", run="echo")
    config.stages.echo = stage_defaults(method="echo", steps=2, rows=2, row_positions=160, log_every=1)
    (greedy, sampled) = pipeline.train(resolve(config))
    assert (greedy.stage, greedy.speed, sampled.sampling) == ("echo", "-", "sampled")
    assert (greedy.lengths_SN == NUM_ECHOES).all() and not greedy.forced_stops_SN.any()
    run = prepare(resolve(config))
    read = ECHO.make_loader(ECHO, run.train, run.config.stages["echo"], 0).batch(0).token_ids_BT[0].tolist()
    assert "".join(" #"[id == run.train.separator_id] for id in read).split()[0] == "####", (
        "it opens, echoes, and closes"
    )
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "echo") if "loss" in line]
    assert losses and np.isfinite(losses).all()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["stages"]["echo"]["method"] == "echo"


def test_without_its_line_it_is_not_there(tmp_path):
    config = tiny_config_dict(tmp_path / "run", run="echo")
    config.stages.echo = stage_defaults(method="echo", steps=2)
    with pytest.raises(ValueError, match=r"method='echo' is none of no_cot, cot, colar, icot, coconut, codi"):
        pipeline.train(resolve(config))

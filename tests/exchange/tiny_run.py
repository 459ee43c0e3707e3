"""A run of the `pico` model on a few embedded problems, whose stage `colar` is given its weights."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from colar_jax.config import Config, defaults, resolve, stage_defaults
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.starts import adopt

HIDDEN, MAX_LATENTS, MAX_ANSWER_TOKENS = 32, 6, 5
LORA = {"rank": 3, "alpha": 12.0, "targets": "query,value,down"}


def tiny_config(workdir, *, stages=("colar",), **model) -> Config:
    """One stage, `colar`, of two steps; or these, each named after its method.

    `latent` and `own_speed` are settings of such stages, `projection` a size, and the others those of the model.
    """
    config = defaults()
    config.update(workdir=str(workdir), run=",".join(stages))
    config.data.update(train_limit=40, num_val=4, num_test=4)
    lora, projection_size, rescale = model.pop("lora", {}), model.pop("projection", 0), model.pop("rescale", False)
    own_speed, latent = model.pop("own_speed", {}), model.pop("latent", {})
    config.decode.greedy_stop = model.pop("greedy_stop", config.decode.greedy_stop)
    config.model.update(preset="pico", **model)
    config.model.lora.update(lora)
    config.model.latent_head.intermediate_size = 24
    for name in stages:
        config.stages[name] = stage_defaults(method=name, steps=2, rows=2, row_positions=128)
    for name in {"codi", "pccot", "kava", "adaptive"}.intersection(stages):
        config.stages[name][name].projection_size = projection_size
    if "coconut" in stages:
        config.stages.coconut.coconut.rescale = rescale
    if "own_speed" in stages:
        config.stages.own_speed.own_speed.update(own_speed)
    if "colar" in stages:
        config.stages.colar.latent.update({"speeds": "2"} | latent)
    config.decode.update(max_latents=MAX_LATENTS, max_answer_tokens=MAX_ANSWER_TOKENS)
    config.eval.seeds = 0
    return resolve(config)


def larger(parameters):
    """Weights that make a difference: initial ones leave the adapters, and nearly the biases, at zero."""
    rng = np.random.default_rng(0)

    def leaf(path, value):
        if path[-1] in ("embed_std", "scale", "norm_scale"):
            return value
        scale = np.sqrt(value.shape[-2]) if path[-1] in ("kernel", "a", "b") else 4.0
        return jnp.asarray(np.asarray(value) + rng.normal(size=value.shape) / scale, value.dtype)

    flat = traverse_util.flatten_dict(parameters)
    return traverse_util.unflatten_dict({path: leaf(path, value) for path, value in sorted(flat.items())})


def given_run(workdir, *, stages=("colar",), **model) -> tuple[Run, dict]:
    """The run, and the weights that are step 0 of each of its stages."""
    run = prepare(tiny_config(workdir, stages=stages, **model))
    parameters = larger(jax.device_get(run.initial_parameters()))
    if run.config.model.lora.rank:  # the base is frozen: it stays as it was
        own = {"adapter"}
        flat, initial = traverse_util.flatten_dict(parameters), traverse_util.flatten_dict(run.initial_parameters())
        kept = {p: v if own & set(p) or p[0] == "latent_head" else initial[p] for p, v in flat.items()}
        parameters = traverse_util.unflatten_dict(kept)
    for name in stages:
        adopt(run, name, parameters)
    return run, parameters

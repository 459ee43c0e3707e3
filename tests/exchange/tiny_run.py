"""A run of the `pico` model on a few embedded problems, whose stage `colar` is given its weights."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from colar_jax.config import Config, defaults, resolve, stage_defaults
from colar_jax.run import Run, prepare
from colar_jax.starts import adopt

HIDDEN, MAX_LATENTS, MAX_ANSWER_TOKENS = 32, 6, 5


def tiny_config(workdir, **model) -> Config:
    """One stage, `colar`, of two steps."""
    config = defaults()
    config.update(workdir=str(workdir), run="colar")
    config.data.update(train_limit=40, num_val=4, num_test=4)
    lora = model.pop("lora", {})
    config.model.update(preset="pico", **model)
    config.model.lora.update(lora)
    config.model.latent_head.intermediate_size = 24
    config.stages.colar = stage_defaults(method="colar", steps=2, rows=2, row_positions=128)
    config.stages.colar.latent.speeds = "2"
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


def given_run(workdir, **model) -> tuple[Run, dict]:
    """The run, and the weights that are step 0 of its stage."""
    run = prepare(tiny_config(workdir, **model))
    parameters = larger(jax.device_get(run.initial))
    if run.config.model.lora.rank:  # the base is frozen: it stays as it was
        own = {"adapter"}
        flat, initial = traverse_util.flatten_dict(parameters), traverse_util.flatten_dict(run.initial)
        kept = {p: v if own & set(p) or p[0] == "latent_head" else initial[p] for p, v in flat.items()}
        parameters = traverse_util.unflatten_dict(kept)
    adopt(run, "colar", parameters)
    return run, parameters

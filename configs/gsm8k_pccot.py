"""PCCoT on GSM8K-Aug: CODI whose latents are made all at once, in a few sweeps (arXiv 2506.18582).

    python -m colar_jax.train --config=configs/gsm8k_pccot.py              # 24 latents, 3 sweeps
    python -m colar_jax.train --config=configs/gsm8k_pccot.py:pauses       # no sweep: 24 positions of `###`
    python -m colar_jax.train --config=configs/gsm8k_pccot.py:smoke        # on embedded problems, tiny

Published, greedy accuracy % on GSM8K (Llama-3.2-1B): 53.4 to 54.2, in KaVa's tables (docs/ledger.md). Its own paper is
about GPT-2; for Llama these are CODI's settings, as KaVa has them. Not run here: it needs the weights and GSM8K-Aug;
score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_CODI = config_beside(__file__, "gsm8k_codi")


def get_config(argument: str = ""):
    """One stage, from the base itself; `smoke` needs no network."""
    if argument not in ("", "pauses", "smoke"):
        raise ValueError(f"configs/gsm8k_pccot.py knows the arguments pauses, smoke, not {argument!r}")
    config = _CODI.get_config("smoke" if argument == "smoke" else "")
    config.title = "PCCoT on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_pccot{'_' if argument else ''}{argument}"
    as_codi(config, "pccot")
    stage = config.stages.pccot
    # Four passes over all 24, where CODI has six of one; the distance of hidden states is of the layers alone.
    stage.pccot.update(num_latents=24, num_sweeps=3, distill_embedding=False)
    if argument == "pauses":
        stage.pccot.update(num_sweeps=0, projection_size=0)  # what is fed is `###`: nothing is projected
    if argument == "smoke":
        stage.pccot.update(num_latents=4, num_sweeps=2)
    return config


def as_codi(config, method: str) -> None:
    """The run of a method that is built on CODI, with CODI's settings, in place of CODI's."""
    given = config.stages.codi
    stage = config.stages[method] = stage_defaults(method=method)
    stage.update({name: value for name, value in given.items() if name not in ("method", "codi")})
    stage[method].update(given.codi)
    del config.stages.codi
    config.run = method

"""Chain of thought alone on MATH: the start that every method shares, with the settings of configs/math_colar.py.

    python -m colar_jax.train --config=configs/math_cot.py
    python -m colar_jax.train --config=configs/math_colar.py --config.run=colar \\
      --config.stages.colar.init_from=runs/math_cot/cot

Published, accuracy % / #L: 23.5 / 209 with the Qwen base, 9.71 / 210 with Llama. Not run here: it needs the weights and
the data.
"""

from colar_jax.config import config_beside

_COLAR = config_beside(__file__, "math_colar")


def get_config(argument: str = ""):
    """The first stage of configs/math_colar.py, which takes the same arguments."""
    config = _COLAR.get_config(argument)
    config.title = "Chain of thought on MATH"
    config.workdir = config.workdir.replace("colar", "cot")
    config.run = "cot"
    del config.stages.colar
    return config

"""Chain of thought alone on GSM8K-Aug: the start that every method shares, with the settings of configs/gsm8k_colar.py.

    python -m colar_jax.train --config=configs/gsm8k_cot.py
    python -m colar_jax.train --config=configs/gsm8k_colar.py --config.run=colar \\
      --config.stages.colar.init_from=runs/gsm8k_cot/cot

Published, accuracy % / #L: 49.4 / 25.6 on GSM8K. Not run here: it needs the weights and the data.
"""

from colar_jax.config import config_beside

_COLAR = config_beside(__file__, "gsm8k_colar")


def get_config(argument: str = ""):
    """The first stage of configs/gsm8k_colar.py, which takes the same arguments."""
    config = _COLAR.get_config(argument)
    config.title = "Chain of thought on GSM8K-Aug"
    config.workdir = config.workdir.replace("colar", "cot")
    config.run = "cot"
    config.eval.speeds = ""
    del config.stages.colar
    return config

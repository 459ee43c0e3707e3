"""KaVa on GSM8K-Aug: latents that learn the keys and values of an evicted chain of thought (arXiv 2510.02312).

    python -m colar_jax.train --config=configs/gsm8k_kava.py               # Llama-3.2-1B, chains of equations
    python -m colar_jax.train --config=configs/gsm8k_kava.py:nl            # chains of sentences
    python -m colar_jax.train --config=configs/gsm8k_kava.py:3b            # Llama-3.2-3B; also qwen, 3b_nl, qwen_nl
    python -m colar_jax.train --config=configs/gsm8k_kava.py:smoke         # on embedded problems, tiny

Published, greedy accuracy % on GSM8K, equations / sentences: Llama-3.2-1B 56.5 / 55.7, 3B 65.7 / 60.0, Qwen2.5-0.5B
46.9 / 44.4 (docs/ledger.md). There is no code of the paper; what its text leaves open is in
docs/methods.md. Not run here: it needs the weights and GSM8K-Aug; score and time are not measured.
"""

import dataclasses

from colar_jax.config import config_beside

_CODI, _PCCOT = (config_beside(__file__, f"gsm8k_{name}") for name in ("codi", "pccot"))
SENTENCES = "hub:whynlp/gsm8k-aug-nl"


@dataclasses.dataclass(frozen=True)
class OfBase:
    """What the paper's table of settings has for a base and a form of chains."""

    base: str
    hidden_size: int
    distance: str
    normalise: bool = True
    learning_rate: float = 8e-4
    epochs: float = 10.0
    weights: tuple[float, float] = (10.0, 1.0)  # of hidden states, of keys and values
    importance_share: float = 0.1
    has_projection: bool = True


_1B, _3B = "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-3B-Instruct"
_QWEN = "Qwen/Qwen2.5-0.5B-Instruct"
_OF_3B = OfBase(_3B, 3072, "smooth_l1", False, 2e-4, 5.0, (20.0, 2.0))
SETTINGS = {
    "": OfBase(_1B, 2048, "smooth_l1"),
    "nl": OfBase(_1B, 2048, "mse"),
    "qwen": OfBase(_QWEN, 896, "mse", normalise=False, learning_rate=5e-4),
    "qwen_nl": OfBase(_QWEN, 896, "mse"),
    "3b": _OF_3B,
    "3b_nl": dataclasses.replace(_OF_3B, importance_share=0.0, has_projection=False),
}


def get_config(argument: str = ""):
    """One stage, from the base itself; `nl` trains on sentences, `smoke` needs no network."""
    if argument not in (*SETTINGS, "smoke"):
        known = ", ".join(name for name in (*SETTINGS, "smoke") if name)
        raise ValueError(f"configs/gsm8k_kava.py knows the arguments {known}, not {argument!r}")
    config = _CODI.get_config("smoke" if argument == "smoke" else "")
    config.title = "KaVa on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_kava{'_' if argument else ''}{argument}"
    _PCCOT.as_codi(config, "kava")
    stage = config.stages.kava
    stage.kava.update(num_latents=24, num_sweeps=3, distill_embedding=False)
    if argument == "smoke":
        stage.kava.update(num_latents=4, num_sweeps=2)
        return config
    own = SETTINGS[argument]
    config.model.base = own.base
    stage.update(epochs=own.epochs)
    # 3 % of the updates: 385,620 problems an epoch, 128 an update.
    stage.optimizer.update(learning_rate=own.learning_rate, warmup_steps=round(90 * own.epochs))
    stage.kava.update(distill_weight=own.weights[0], cache_weight=own.weights[1], importance_share=own.importance_share)
    stage.kava.update(cache_distance=own.distance, cache_normalise=own.normalise)
    stage.kava.projection_size = own.hidden_size if own.has_projection else 0
    if argument.endswith("nl"):
        config.data.train = SENTENCES
        # Chains are two and a half times as long: a row of 512 positions should hold 4 or 5 problems, where it held 6.
        stage.rows = 28
        config.decode.max_step_tokens = 256
    return config

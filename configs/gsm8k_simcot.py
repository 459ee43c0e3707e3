"""SIM-CoT on GSM8K-Aug: a decoder for training alone reads each step from its latents (arXiv 2509.20317).

    python -m colar_jax.train --config=configs/gsm8k_simcot.py               # on CODI, the paper's settings
    python -m colar_jax.train --config=configs/gsm8k_simcot.py:coconut       # CoT, Coconut, and SIM-CoT from that
    python -m colar_jax.train --config=configs/gsm8k_simcot.py:colar --config.run=sim_colar \\
      --config.stages.sim_colar.init_from=runs/gsm8k_cot/cot                 # on CoLaR: nobody published that
    python -m colar_jax.train --config=configs/gsm8k_simcot.py:smoke         # on embedded problems, tiny

Published, greedy accuracy % / #L on GSM8K (Llama-3.2-1B): CODI 52.7 -> 56.1 / 6, Coconut 33.2 -> 42.2 (docs/ledger.md).
On Coconut the authors have all six latents from the first stage on, and steps go gradually; here each stage adds two,
ten in the end.
The decoder is one more set of weights, gradients and moments in training: 1.2 billion parameters, 20 GB in float32. Not
run here: it needs the weights and GSM8K-Aug; score and time are not measured.
"""

from colar_jax.config import config_beside, stage_defaults

_CODI, _COCONUT = (config_beside(__file__, f"gsm8k_{name}") for name in ("codi", "coconut"))
_COLAR = config_beside(__file__, "gsm8k_colar")


def get_config(argument: str = ""):
    """SIM-CoT on one host: CODI, or `coconut`, or `colar`; `smoke` has all three and needs no network."""
    if argument not in HOSTS:
        known = ", ".join(name for name in HOSTS if name)
        raise ValueError(f"configs/gsm8k_simcot.py knows the arguments {known}, not {argument!r}")
    config = HOSTS[argument]()
    config.title = "SIM-CoT on GSM8K-Aug"
    config.workdir = f"runs/gsm8k_simcot{'_' if argument else ''}{argument}"
    return config


def _on(config, host: str, **settings):
    """The stage of a host with a decoder besides, as `sim_<host>`."""
    stage = config.stages[host]
    name, group = f"sim_{host}", "latent" if host == "colar" else host
    sim = config.stages[name] = stage_defaults(method=name)
    sim.update({key: value for key, value in stage.items() if key not in ("method", group)})
    sim[name].update(stage[group])
    sim.update(settings)
    return sim


def _codi(argument: str = ""):
    config = _CODI.get_config(argument)
    sim = _on(config, "codi")
    if not argument:
        sim.rows = 24  # what the decoder spells has its place in the rows, too: batches of 126
    config.run = "sim_codi"
    del config.stages.codi
    return config


def _coconut(argument: str = ""):
    """From a trained Coconut, with the last stage's latents from the second update on."""
    config = _COCONUT.get_config(argument)
    if not argument:
        config.stages.coconut.coconut.num_stages = 5
    sim = _on(config, "coconut", init_from="coconut", epochs=25.0)
    if not argument:
        sim.rows = 32  # batches of 128
    sim.optimizer.update(learning_rate=1e-4, weight_decay=0.01)
    # It begins where Coconut ended: with no step left.
    sim.sim_coconut.update(epochs_per_stage=1e-6)
    config.run = "cot,coconut,sim_coconut"
    return config


def _colar(argument: str = ""):
    config = _COLAR.get_config(argument)
    _on(config, "colar")
    config.run = "sim_colar"
    del config.stages.colar
    config.stages.sim_colar.init_from = "cot"
    config.run = "cot,sim_colar"
    return config


def _smoke():
    config = _coconut("smoke")
    for other in (_codi("smoke"), _colar("smoke")):
        for name, stage in other.stages.items():
            if name.startswith("sim_"):
                config.stages[name] = stage
    config.run = "cot,coconut,sim_coconut,sim_codi,sim_colar"
    return config


HOSTS = {"": _codi, "coconut": _coconut, "colar": _colar, "smoke": _smoke}

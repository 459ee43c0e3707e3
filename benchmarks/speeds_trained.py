"""What benchmarks/speeds.py compares, and how each of it is trained: runs of configs/arithmetic.py, resumable."""

import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "arithmetic.py"
BANDS = "1..2.3,2.7..4.3,4.7..6"
AROUND_BANDS = "1,1.5,2,2.3,2.5,2.7,3,3.5,4,4.3,4.5,4.7,5,6"
CERTAINTIES = {f"certainty {certainty}": {"speed_certainty": certainty} for certainty in (0.0, 0.9, 0.95, 0.98, 0.99)}
EXPERIMENTS = {
    "bands": {
        "timeline": {"speeds": BANDS, "conditioning": "number", "timeline": "tokens"},
        "number": {"speeds": BANDS, "conditioning": "number", "timeline": "latents"},
        "text": {"speeds": BANDS, "conditioning": "text", "timeline": "latents", "random_phase": False},
    },
    "weights": {
        "example": {"speeds": "1,2,3,4,5", "conditioning": "text", "timeline": "latents", "weighting": "example"},
        "position": {"speeds": "1,2,3,4,5", "conditioning": "text", "timeline": "latents", "weighting": "position"},
    },
    "main": {"as configured": {}},
    "larger": {"numbers up to 50": {}},
    "sure": CERTAINTIES,
    "sure_larger": CERTAINTIES,
    "mid_chain": CERTAINTIES,
    "rl": {f"budget {passes}": {"budget": float(passes)} for passes in (12, 14, 18)},
}
# Of these a model's own speed is compared with the fixed speeds of the same model: the one that they start from.
STARTS = {"sure": "main", "sure_larger": "larger", "mid_chain": "larger", "rl": "larger"}
ASKED = {"bands": AROUND_BANDS, "weights": "1,2,3,4,5"}
OWN_PROBLEMS = dict.fromkeys(("larger", "mid_chain", "rl"), "arithmetic:max_number=50,min_steps=1,max_steps=6")
TINY = {
    "model.preset": "pico",
    "model.latent_head.intermediate_size": 16,
    "data.train_limit": 200,
    "data.num_val": 4,
    "data.num_test": 8,
    "decode.max_latents": 8,
    "decode.max_step_tokens": 8,
    "decode.max_answer_tokens": 3,
    "stages.cot.steps": 2,
    "stages.colar.steps": 3,
    "stages.colar.eval_every": 0,
    "stages.auto.steps": 3,
    "stages.auto.own_speed.num_labelled": 8,
    "stages.auto.own_speed.grid": "1,6",
    "stages.auto_rl.own_speed.grid": "1,6",
    "stages.auto_rl.steps": 3,
    "stages.auto_rl.log_every": 1,
    "stages.auto_rl.rl.num_questions": 4,
    "stages.auto_rl.rl.minibatch_size": 16,
}


def train(folder: Path, seed: int, settings: dict) -> None:
    """A run in a folder; what is finished there is not done again."""
    settings = {"workdir": folder, "seed": seed, "eval.seeds": 0, "eval.latent_words": 0} | settings
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    subprocess.run([sys.executable, "-m", "colar_jax.train", f"--config={CONFIG}", *flags], check=True)


def folder_of(out: Path, experiment: str, arm: str, seed: int) -> Path:
    """Where a cell is."""
    return out / f"seed_{seed}" / experiment / arm.replace(", ", "_").replace(" ", "_")


def start_of(out: Path, experiment: str, seed: int) -> Path:
    """The folder of the fixed speeds that a choice of speeds starts from, and is compared with."""
    [arm] = EXPERIMENTS[STARTS[experiment]]
    return folder_of(out, STARTS[experiment], arm, seed)


def trained_start(out: Path, experiment: str, seed: int, changes: dict) -> Path:
    """`start_of`, trained."""
    return trained(out, STARTS[experiment], *EXPERIMENTS[STARTS[experiment]], seed, changes)


def trained(out: Path, experiment: str, arm: str, seed: int, changes: dict) -> Path:
    """Train and evaluate one arm, and before it what it starts from; its folder."""
    folder, group, settings = folder_of(out, experiment, arm, seed), "colar.latent", dict(changes)
    if experiment in OWN_PROBLEMS:
        # At 4 this model is right more often than at 3.
        settings |= {"data.train": OWN_PROBLEMS[experiment]}
        settings |= {f"stages.{stage}.own_speed.labels": "each" for stage in ("auto", "auto_rl")}
    if experiment in STARTS:
        start, stage = trained_start(out, experiment, seed, changes), "auto_rl" if experiment == "rl" else "auto"
        group = f"{stage}.{'rl' if experiment == 'rl' else 'own_speed'}"
        settings |= {"run": stage, f"stages.{stage}.init_from": start / "colar", "decode.speed_certainty": 0.0}
    else:
        of_seed = out / f"seed_{seed}" / ("cot_larger" if experiment in OWN_PROBLEMS else "cot")
        train(of_seed, seed, settings | {"run": "cot"})
        stages = "colar,auto" if experiment in STARTS.values() else "colar"
        settings |= {"run": stages, "stages.colar.init_from": of_seed / "cot"}
    if experiment == "mid_chain":
        settings["stages.auto_rl.own_speed.mid_chain"] = True  # of all stages with a choice, run or not
    of_arm = {"mid_chain": True} if experiment == "mid_chain" else EXPERIMENTS[experiment][arm]
    settings |= {f"stages.{group}.{name}": value for name, value in of_arm.items()}
    if "timeline" in of_arm:  # one model has one, whatever of its stages are run
        others = ("rl.latent", "auto.own_speed", "auto_rl.own_speed")
        settings |= {f"stages.{other}.timeline": of_arm["timeline"] for other in others}
    if experiment in ASKED:
        settings["eval.speeds"] = ASKED[experiment]
    train(folder, seed, settings)
    return folder

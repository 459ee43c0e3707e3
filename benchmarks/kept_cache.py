"""How much of the cache that KaVa's latents are to match they do match, by the length of the teacher's chain.

    python -m colar_jax.train --config=configs/methods.py:short --config.run=cot,kava --config.workdir=runs/kava
    python benchmarks/kept_cache.py runs/kava

Of training problems, at the stage's best checkpoint. Explained is the share of a layer's variance that the latents'
keys, or values, explain (R²); the variance is that of each number that is kept, over problems whose chains are as long.
Below 0 a constant is nearer. The distance is the one that is trained, but with the spread of these problems and not
of a batch, beside that of the best constant: the mean of each number over problems whose chains are as long. Every
layer and head keeps tokens of its own: how many a latent is to hold at once is the number of different ones.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from colar_jax.config import resolve
from colar_jax.errors import UserError
from colar_jax.methods.kava import Kava
from colar_jax.methods.thinking import thought_chain
from colar_jax.methods.thinking.cache_distillation import DISTANCES, Matched, matched_caches
from colar_jax.methods.thinking.cache_eviction import chains_of
from colar_jax.model.execution import Execution
from colar_jax.runs.learned import training_set
from colar_jax.runs.run import Run, prepare
from colar_jax.runs.run_folder import saved_config
from colar_jax.runs.starts import finished_parameters


def matched_problems(run: Run, name: str, num_problems: int) -> tuple[np.ndarray, list[Matched]]:
    """How many tokens each problem's chain has, `[N]`, and what each layer compares: `Matched` with `N` for `B, E`."""
    stage, method = run.config.stages[name], run.method(name)
    parameters, compute = finished_parameters(run, run.workdir / name), Execution()

    @jax.jit
    def program(parameters, batch):
        model, chains = nnx.merge(run.graph, parameters), chains_of(batch)
        trunk = thought_chain.run_trunk(model, batch, compute, watched_BT=chains.places_BT)
        latents = method.think_in_training(model, trunk, batch, compute, None)
        layers = list(matched_caches(trunk, latents, batch, chains, method.matching, model.llama.config))
        return chains.is_chain_BEP.sum(axis=2), batch.question_lengths_BE > 0, layers

    loader = method.make_loader(
        training_set(run, name), seed=run.seed_of(name), rows=stage.rows, row_positions=stage.row_positions
    )
    found = []
    for step in range(loader.steps_per_epoch):
        tokens_BE, is_real_BE, layers = jax.device_get(program(parameters, loader.batch(step)))
        found.append((tokens_BE[is_real_BE], by_problem(layers, is_real_BE)))
        if sum(len(tokens_N) for tokens_N, _ in found) >= num_problems:
            break
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num_problems], *found)


def by_problem(layers: list[Matched], is_real_BE) -> list[Matched]:
    """What is real, `N` for `B, E`: heads lie before the examples of a row."""
    return jax.tree.map(lambda x: np.moveaxis(np.asarray(x), 2, 1)[is_real_BE], layers)


def explained(teacher_NKMH, student_NKMH, is_kept_NKM) -> float:
    """R², over all numbers that are kept."""
    kept_NKM1 = is_kept_NKM[..., None]
    rest = np.sum(np.square(teacher_NKMH - student_NKMH) * kept_NKM1)
    spread = np.sum(np.square(teacher_NKMH - mean_of(teacher_NKMH, is_kept_NKM)) * kept_NKM1)
    return float(1 - rest / spread) if spread else np.nan


def mean_of(teacher_NKMH, is_kept_NKM):
    """The best constant: the mean of each number over the problems that keep it."""
    kept_NKM1 = is_kept_NKM[..., None]
    return np.sum(teacher_NKMH * kept_NKM1, axis=0) / np.maximum(kept_NKM1.sum(axis=0), 1)


def tokens_of_a_latent(layers: list[Matched]) -> float:
    """Of how many different tokens a latent is to have keys and values, over layers and heads; a mean."""
    places_NHM = np.concatenate([layer.places_BKEM for layer in layers], axis=1)
    is_kept_NM = layers[0].is_kept_BKEM[:, 0]  # all heads keep as many
    numbers = [
        len(set(places_NHM[problem, :, latent])) for problem, latent in zip(*np.nonzero(is_kept_NM), strict=True)
    ]
    return float(np.mean(numbers)) if numbers else 0.0


def distances(layers: list[Matched], tokens_N: np.ndarray, method: Kava) -> tuple[float, float]:
    """What is trained, of the latents and of the best constant for each length: means over problems, layers, both."""
    of_latents, of_constants = [], []
    how = method.matching
    for layer in layers:
        for teacher, student in pairs_of(layer):
            kept = layer.is_kept_BKEM[..., None]
            constant = np.zeros_like(teacher)
            for number in np.unique(tokens_N):
                alike = tokens_N == number
                constant[alike] = mean_of(teacher[alike], layer.is_kept_BKEM[alike])
            spread = np.std(teacher[np.broadcast_to(kept, teacher.shape)], ddof=1) if how.normalise else 1.0
            for guess, found in ((student, of_latents), (constant, of_constants)):
                found.append(float(np.mean(np.asarray(DISTANCES[how.distance](guess - teacher)) * kept) / spread))
    return float(np.mean(of_latents)), float(np.mean(of_constants))


def pairs_of(layer: Matched):
    """(teacher, student) of keys and of values."""
    return (layer.teacher_keys_BKEMH, layer.keys_BKEMH), (layer.teacher_values_BKEMH, layer.values_BKEMH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--stage", default="kava")
    parser.add_argument("--problems", type=int, default=200)
    options = parser.parse_args()
    try:
        run = prepare(resolve(saved_config(options.run)))
        if options.stage not in run.config.stages or not isinstance(run.method(options.stage), Kava):
            raise UserError(f"--stage={options.stage} is no stage of {options.run} with the method kava")
        tokens_N, layers = matched_problems(run, options.stage, options.problems)
    except UserError as error:
        raise SystemExit(str(error)) from None
    method = run.method(options.stage)
    print(
        "| tokens of the chain | problems | a latent is to hold | "
        + " | ".join(f"layer {number}: keys, values" for number in range(len(layers)))
        + " |"
    )
    print("| --- " * (3 + len(layers)) + "|")
    for number in np.unique(tokens_N):
        alike = tokens_N == number
        some = jax.tree.map(lambda x, alike=alike: x[alike], layers)
        shares = (
            ", ".join(f"{explained(*pair, layer.is_kept_BKEM):.2f}" for pair in pairs_of(layer)) for layer in some
        )
        held = tokens_of_a_latent(some)
        print(f"| {number} | {alike.sum()} | {held:.1f} | " + " | ".join(shares) + " |")
    ours, constant = distances(layers, tokens_N, method)
    print(f"\ndistance: latents {ours:.3f}, the best constant {constant:.3f}")


if __name__ == "__main__":
    main()

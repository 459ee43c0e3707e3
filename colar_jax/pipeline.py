"""The stages of a run one after the other, and the table at its end."""

import logging
import math
from collections.abc import Iterator

import jax
import numpy as np

from colar_jax.config import Config, split_names
from colar_jax.data.loader import Loader
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.evaluation.evaluator import Outcome
from colar_jax.evaluation.report import markdown_table, write_report
from colar_jax.evaluation.results import NO_SPEED, Result
from colar_jax.evaluation.samples import samples_of, write_samples
from colar_jax.identity import identity_of
from colar_jax.parallel.hosts import is_first, wait_for_all
from colar_jax.parallel.mesh import num_shards, replicate
from colar_jax.progress import Progress
from colar_jax.run import Run, model_name, prepare, write_config
from colar_jax.starts import finished_parameters, start_parameters
from colar_jax.training.checkpoints import Checkpoints
from colar_jax.training.grpo import iterations, make_grpo_trainer, most_updates
from colar_jax.training.stage import CHECKPOINTS_FOLDER, StageRun, refuse_another_run, run_stage
from colar_jax.training.state import TrainState, Tree, make_optimizer, partition
from colar_jax.training.step import make_train_step
from colar_jax.training.trainer import SftTrainer, Trainer

logger = logging.getLogger(__name__)

SAMPLES_FILE = "samples.jsonl"


def train(config: Config) -> list[Result]:
    """Run every stage of `config`, each from where it stopped, then evaluate: the whole of `colar_jax.train`."""
    run = prepare(config)
    for name in config.stage_names:  # before anything is written, or trained for nothing
        _refuse_another_run(run, name)
    wait_for_all("looked at the folder")  # before one of them makes what another would look at
    write_config(run)
    for name in config.stage_names:
        train_stage(run, name)
        wait_for_all(f"finished {name}")  # what the first has written is there for all
    return evaluate(run)


def train_stage(run: Run, name: str) -> None:
    """Run one stage to its end; what it leaves is in `<workdir>/<name>`."""
    stage, seed = run.config.stages[name], run.seed_of(name)
    folder, speeds = run.workdir / name, run.trained_speeds(name)
    evaluator = run.evaluator(name, [run.val], speeds)

    def validate(parameters: Tree) -> dict[str, Outcome]:
        outcomes = {speed_text(speed): evaluator.run(parameters, run.val, speed, seed=None) for speed in speeds}
        samples = (samples_of(run.val, outcome, speed=speed) for speed, outcome in outcomes.items())
        if is_first():
            write_samples(folder / SAMPLES_FILE, (sample for part in samples for sample in part))
        return outcomes

    make_trainer = {"sft": _learn_from_data, "grpo": _learn_from_rewards}[stage.trainer]
    trainer, state, frozen, num_steps = make_trainer(run, name)
    stage_run = StageRun(
        name=name,
        folder=folder,
        mesh=run.mesh,
        config=stage,
        num_steps=num_steps,
        trainer=trainer,
        validate=validate,
        identity=identity_of(run, name),
        keep_checkpoints=run.config.keep_checkpoints,
    )
    run_stage(stage_run, state, frozen, replicate(jax.random.key(seed), run.mesh))


def _learn_from_data(run: Run, name: str) -> tuple[Trainer, TrainState, Tree, int]:
    """A stage's trainer, its first state, what it leaves alone, and its number of steps."""
    stage, method = run.config.stages[name], run.method(name)
    if stage.rows % (num_shards(run.mesh) * stage.accumulation):
        raise ValueError(
            f"stages.{name}.rows={stage.rows} cannot be split over {num_shards(run.mesh)} devices and "
            f"accumulation={stage.accumulation}: make it a multiple of {num_shards(run.mesh) * stage.accumulation}"
        )
    recipe, seed = method.recipe(stage), run.seed_of(name)
    loader = Loader(run.train, recipe, seed=seed, rows=stage.rows, row_positions=stage.row_positions)
    if loader.num_left_out:
        logger.warning(
            "stage %s: %d of %d examples exceed a row of %d positions at one of their speeds, and are left out then",
            name, loader.num_left_out, len(run.train), stage.row_positions,
        )  # fmt: skip
    num_steps = stage.steps or math.ceil(stage.epochs * loader.steps_per_epoch)
    optimizer = make_optimizer(stage.optimizer, num_steps)
    step = make_train_step(run.graph, method, stage, run.config.model, optimizer, run.mesh, run.config.parallel)
    trainable, frozen = partition(start_parameters(run, name), trains_latent_head=method.trains_latent_head)
    return SftTrainer(loader, step, run.mesh), run.first_state(trainable, frozen, optimizer), frozen, num_steps


def _learn_from_rewards(run: Run, name: str) -> tuple[Trainer, TrainState, Tree, int]:
    """As `_learn_from_data`, for a stage that is trained by its rollouts' rewards; a step is an iteration."""
    config, stage, method = run.config, run.config.stages[name], run.method(name)
    if not method.trains_latent_head:
        raise ValueError(
            f"stages.{name}: trainer='grpo' improves latent chains, and method={stage.method!r} has none: use colar"
        )
    num_steps = iterations(stage, len(run.train))
    optimizer = make_optimizer(stage.optimizer, num_steps * most_updates(stage.rl))
    parameters = start_parameters(run, name)
    trainer = make_grpo_trainer(
        name,
        stage,
        method,
        run.graph,
        decode=config.decode,
        compute=config.model,
        encoded=run.train,
        tokenizer=run.tokenizer,
        verifier=config.data.verifier,
        optimizer=optimizer,
        mesh=run.mesh,
        parallel=config.parallel,
        seed=run.seed_of(name),
        first=parameters,
    )
    trainable, frozen = partition(parameters, trains_latent_head=True)
    return trainer, run.first_state(trainable, frozen, optimizer), frozen, num_steps


def evaluate(run: Run) -> list[Result]:
    """Decode every test set with every stage, at every speed, greedily and sampled; write and print the table."""
    config = run.config
    stages = split_names(config.eval.stages) or config.stage_names
    seeds: list[int | None] = ([None] if config.eval.greedy else []) + list(range(config.eval.seeds))
    total = sum(len(run.decode_speeds(name)) for name in stages) * len(run.tests) * len(seeds)
    results, samples, done = [], [], 0
    with Progress("evaluation", total, unit="decode") as progress:
        for name in stages:
            parameters = finished_parameters(run, run.workdir / name)
            evaluator = run.evaluator(name, list(run.tests.values()), run.decode_speeds(name))
            for dataset, encoded in run.tests.items():
                for speed in run.decode_speeds(name):
                    outcomes = []
                    for seed in seeds:
                        outcomes.append(evaluator.run(parameters, encoded, speed, seed=seed))
                        done += 1
                        progress.advance(done)
                    results.extend(_results(run, name, dataset, speed, seeds, outcomes))
                    facts = {"stage": name, "dataset": dataset, "speed": speed_text(speed)}
                    samples.extend(samples_of(encoded, outcomes[0], **facts))
    if is_first():
        write_samples(run.workdir / SAMPLES_FILE, iter(samples))
        write_report(run.workdir, results, config.title, _notes(run, stages))
    print(markdown_table(results), flush=True)
    return results


def _results(run: Run, name: str, dataset: str, speed: Speed, seeds, outcomes: list[Outcome]) -> Iterator[Result]:
    for sampling in ("greedy", "sampled"):
        chosen = [o for seed, o in zip(seeds, outcomes, strict=True) if (seed is None) == (sampling == "greedy")]
        if chosen:
            yield Result(
                stage=name,
                dataset=dataset,
                speed=speed_text(speed) if run.method(name).has_speed else NO_SPEED,
                sampling=sampling,
                right_SN=np.stack([outcome.right_N for outcome in chosen]),
                lengths_SN=np.stack([outcome.lengths_N for outcome in chosen]),
                forced_stops_SN=np.stack([outcome.forced_stop_N for outcome in chosen]),
            )


def _notes(run: Run, stages: tuple[str, ...]) -> str:
    trained = [f"{name}: method {run.config.stages[name].method}" for name in stages]
    return f"Model {model_name(run.config)}, seed {run.config.seed}. " + "; ".join(trained) + "."


def _refuse_another_run(run: Run, name: str) -> None:
    folder = run.workdir / name / CHECKPOINTS_FOLDER
    if folder.is_dir():
        with Checkpoints(folder) as checkpoints:
            if (step := checkpoints.latest_step()) is not None:
                refuse_another_run(checkpoints, step, identity_of(run, name))

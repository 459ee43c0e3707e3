"""Import a checkpoint of the published code as a stage, which can be evaluated and trained on."""

import logging
from pathlib import Path

import numpy as np
from flax import nnx

from colar_jax.errors import UserError
from colar_jax.exchange.lightning import read_lightning_checkpoint
from colar_jax.model.lora import joined
from colar_jax.parallel.mesh import replicate
from colar_jax.runs.run import Run
from colar_jax.runs.starts import adopt
from colar_jax.training.state import Tree
from colar_jax.weights.latent_head_file import from_published
from colar_jax.weights.peft import adapter_tree

logger = logging.getLogger(__name__)


def import_checkpoint(run: Run, stage: str, checkpoint: Path, embed_std: float | None = None) -> None:
    """Make step 0 of a stage from a Lightning `.ckpt`.

    Args:
        run: prepared, with the base model and the adapters (`model.lora`) that the checkpoint was trained with.
        stage: a stage of the run without checkpoints.
        embed_std: the scale that the checkpoint's latent head was trained with. The published code has a table of it
            (0.018 for Llama-3.2-1B); None measures it on the base model's embedding, which gives the same to rounding.

    Raises:
        UserError: the file is no such checkpoint, does not fit the run, or the stage has checkpoints already.
    """
    if stage not in run.config.stages:
        raise UserError(f"--stage={stage} is no stage of this run: {', '.join(run.config.stages)}")
    needs_head = run.method(stage).draws_latents
    adopt(run, stage, published_parameters(run, checkpoint, embed_std, needs_latent_head=needs_head))
    logger.info("%s is step 0 of stage %s in %s", checkpoint, stage, run.workdir)


def published_parameters(
    run: Run, checkpoint: Path, embed_std: float | None = None, *, needs_latent_head: bool = False
) -> Tree:
    """The run's parameters with the adapters and the latent head of a published checkpoint."""
    read = read_lightning_checkpoint(checkpoint)
    if needs_latent_head and not read.latent_head:
        raise UserError(
            f"{checkpoint} holds no latent head, and the stage draws its latents from one: import it as a stage that "
            "thinks in none, such as method=cot"
        )
    model = nnx.merge(run.graph, run.shapes)
    parameters = run.initial_parameters()
    if read.adapter:
        if model.llama.lora is None:
            raise UserError(f"{checkpoint} holds adapters: set model.lora.rank, alpha and targets as it was trained")
        adapters = adapter_tree(read.adapter, model.llama.config, model.llama.lora, source=str(checkpoint))
        parameters = joined(parameters, replicate(adapters, run.mesh))
    if read.latent_head:
        measured = float(parameters["latent_head"]["embed_std"])
        head = from_published(read.latent_head, embed_std or measured, source=str(checkpoint))
        _check_sizes(head, run.shapes["latent_head"], checkpoint)
        logger.info("embed_std %.5f (measured on the base model: %.5f)", float(head["embed_std"]), measured)
        parameters = parameters | {"latent_head": replicate(head, run.mesh)}
    return parameters


def _check_sizes(head: Tree, expected: Tree, checkpoint: Path) -> None:
    found, wanted = np.shape(head["first"]["kernel"]), np.shape(expected["first"]["kernel"])
    if found != wanted:
        raise UserError(
            f"{checkpoint} has a latent head of hidden size {found[0]} and intermediate size {found[1]}, the run one "
            f"of {wanted[0]} and {wanted[1]}: set model.base, and model.latent_head.intermediate_size={found[1]}"
        )

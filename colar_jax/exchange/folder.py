"""A finished stage as a folder that runs anywhere: model, tokenizer, latent head, a PyTorch file, a card."""

import dataclasses
import logging
import shutil
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from colar_jax.data.prompts import ANSWER_PREFIX, question_prompt, speed_text
from colar_jax.errors import UserError
from colar_jax.exchange.model_card import model_card
from colar_jax.model.hf_folder import new_folder, write_llama
from colar_jax.model.latent_head_file import save_latent_head
from colar_jax.model.lora import merge
from colar_jax.model.peft import write_adapter
from colar_jax.report.files import MARKDOWN_FILE
from colar_jax.run import Run
from colar_jax.starts import finished_parameters

logger = logging.getLogger(__name__)

TORCH_FILE = "colar_torch.py"
FORMS = ("merged", "adapter")


def export_stage(run: Run, stage: str, out: Path, *, form: str = "merged", dtype: str = "float32") -> Path:
    """Write a stage's best checkpoint as a Hugging Face folder; it appears whole or not at all.

    Args:
        run: a prepared run; `stage` one of its stages that has a checkpoint.
        out: the folder to make; must not exist, or be empty.
        form: "merged", a whole model that `transformers.AutoModelForCausalLM` loads, adapters added to its weights; or
            "adapter", a PEFT adapter for the run's base model.
        dtype: of the model's weights, "float32" or "bfloat16"; the latent head is float32.

    Raises:
        UserError: there is no such stage or checkpoint, `out` is not empty, or an option is unknown.
    """
    if form not in FORMS:
        raise UserError(f"--form={form} is none of {', '.join(FORMS)}")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype={dtype} is none of float32, bfloat16")
    if stage not in run.config.stages:
        raise UserError(f"--stage={stage} is no stage of this run: {', '.join(run.config.stages)}")
    model = nnx.merge(run.graph, run.initial)
    lora = model.llama.lora
    if form == "adapter" and (lora is None or not run.config.model.base):
        raise UserError("--form=adapter: this run trained no adapters (model.lora.rank) on a base model (model.base)")
    parameters = finished_parameters(run, run.workdir / stage)
    with new_folder(out) as folder:
        if form == "adapter":
            write_adapter(folder, parameters, lora, base_name=run.config.model.base)
        else:
            whole = parameters if lora is None else merge(parameters, lora)
            write_llama(whole["llama"], model.llama.config, folder, dtype=jnp.dtype(dtype))
        _write_beside(run, stage, parameters, model, folder, is_adapter=form == "adapter")
    logger.info("exported stage %s to %s", stage, out)
    return out


def _write_beside(run: Run, stage: str, parameters, model, folder: Path, *, is_adapter: bool) -> None:
    """Everything but the language model's weights."""
    config, method = run.config, run.method(stage)
    run.tokenizer.save(folder)
    facts = {
        "prompt": question_prompt("{question}", "{speed}"),
        "answer_prefix": ANSWER_PREFIX,
        "separator_id": run.tokenizer.separator_id,
        "eos_id": run.tokenizer.eos_id,
        "vocab_size": model.llama.config.vocab_size,
        "base": config.model.base,
    }
    save_latent_head(parameters["latent_head"], model.latent_head.config, folder, facts)
    shutil.copy(Path(__file__).with_name(TORCH_FILE), folder / TORCH_FILE)
    report = run.workdir / MARKDOWN_FILE
    speeds = tuple(speed_text(speed) for speed in run.trained_speeds(stage)) if method.has_speed else ()
    card = model_card(
        title=config.title,
        stage=stage,
        base=config.model.base,
        speeds=speeds,
        is_adapter=is_adapter,
        report=report.read_text(encoding="utf-8") if report.is_file() else "",
        config=dataclasses.asdict(config),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")

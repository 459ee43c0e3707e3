"""A finished stage as a folder that runs anywhere: model, tokenizer, how it thinks, a PyTorch file, a card."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from colar_jax.config import plain
from colar_jax.data.prompts import ANSWER_PREFIX, SILENT, question_prompt, speed_text
from colar_jax.data.tokenizers import Tokenizer, load_tokenizer
from colar_jax.errors import UserError
from colar_jax.exchange import ways
from colar_jax.exchange.example import example_question
from colar_jax.exchange.model_card import HowAsked, model_card
from colar_jax.methods.method import Thinking
from colar_jax.model.lora import merge_adapters
from colar_jax.report.files import MARKDOWN_FILE
from colar_jax.runs.places import bare_name, change_places, whole_path
from colar_jax.runs.run import Run
from colar_jax.runs.starts import finished_parameters, stage_named, tell_what_counts
from colar_jax.weights import hf_config
from colar_jax.weights.base_model import base_folder
from colar_jax.weights.hf_folder import new_folder, write_llama
from colar_jax.weights.latent_head_file import save_latent_head
from colar_jax.weights.peft import write_adapter
from colar_jax.weights.thinking_file import ThinkingFacts

logger = logging.getLogger(__name__)

TORCH_FILE = "colar_torch.py"
FORMS = ("merged", "adapter")


def export_stage(run: Run, stage: str, out: Path, *, form: str = "merged", dtype: str = "float32") -> Path:
    """Write a stage's best checkpoint as a Hugging Face folder; it appears whole or not at all.

    Args:
        run: a prepared run; `stage` one of its stages that has a checkpoint, or empty: `starts.default_stage`.
        out: the folder to make; must not exist, or be empty.
        form: "merged", a whole model that `transformers.AutoModelForCausalLM` loads, adapters added to its weights; or
            "adapter", a PEFT adapter for the run's base model.
        dtype: of the model's weights, "float32" or "bfloat16"; what makes the latents is float32.

    Raises:
        UserError: there is no such stage or checkpoint, no folder thinks as its method does, `out` is not empty, or an
            option is unknown.
    """
    if form not in FORMS:
        raise UserError(f"--form={form} is none of {', '.join(FORMS)}")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype={dtype} is none of float32, bfloat16")
    stage = stage_named(run, stage)
    model = nnx.merge(run.graph, run.shapes)
    lora = model.llama.lora
    if form == "adapter" and (lora is None or not run.config.model.base):
        raise UserError("--form=adapter: this run trained no adapters (model.lora.rank) on a base model (model.base)")
    thinking = run.method(stage).thinking(run.config.decode, run.tokenizer.separator_id, greedy=True)
    modules = {name: module for name, module in run.method(stage).modules.items() if module.save is not None}
    way = ways.way_of(thinking, stage, has_modules=bool(modules))
    parameters = finished_parameters(run, run.workdir / stage)
    tell_what_counts(run.workdir / stage)
    with new_folder(out) as folder:
        if form == "adapter":
            write_adapter(folder, parameters, lora, base_name=run.config.model.base)
            _tokenizer_of_base(run).save(folder)
        else:
            whole = parameters if lora is None else merge_adapters(parameters, lora, jnp.dtype(dtype))
            carried = _carried(run)
            write_llama(whole["llama"], model.llama.config, folder, dtype=jnp.dtype(dtype), carried=carried)
            run.tokenizer.save(folder)
        if way in (ways.LATENT_HEAD, ways.RESCALED_STATES):  # whose scale is the head's
            save_latent_head(parameters["latent_head"], model.latent_head.config, folder)
        for name, module in modules.items():
            module.save(parameters[name], module.settings, folder)
        facts = _thinking_facts(run, stage, thinking, way)
        base = whole_path(facts.base) if form == "adapter" else bare_name(facts.base)  # only adapters need it
        facts = dataclasses.replace(facts, base=base)
        facts.save(folder)
        shutil.copyfile(Path(__file__).with_name(TORCH_FILE), folder / TORCH_FILE)
        (folder / "README.md").write_text(_card(run, stage, facts, is_adapter=form == "adapter"), encoding="utf-8")
    logger.info("exported stage %s to %s", stage, out)
    return out


def _tokenizer_of_base(run: Run) -> Tokenizer:
    """The run's tokenizer, without a `[PAD]` that the base has no row for: an adapter adds none."""
    config = run.config
    folder = base_folder(config.model.base)
    if run.tokenizer.pad_id < hf_config.read_config(folder).vocab_size:
        return run.tokenizer
    return load_tokenizer(str(folder) if config.uses_tokenizer_of_base else config.data.tokenizer, adds_padding=False)


def _carried(run: Run) -> dict[str, Any]:
    """What `config.json` says besides the model's shape: the tokenizer's special tokens, the base's context length."""
    carried = (
        hf_config.carried_over(hf_config.read_raw(base_folder(run.config.model.base))) if run.config.model.base else {}
    )
    tokenizer = run.tokenizer
    of_tokenizer = {"bos_token_id": tokenizer.hf.bos_token_id, "eos_token_id": tokenizer.eos_id}
    return carried | of_tokenizer | {"pad_token_id": tokenizer.pad_id}


def _thinking_facts(run: Run, stage: str, thinking: Thinking, way: str) -> ThinkingFacts:
    """What a program needs to know besides weights."""
    method = run.method(stage)
    return ThinkingFacts(
        method=run.config.stages[stage].method,
        way=way,
        prompt=question_prompt("{question}", "{speed}" if method.recipe.says_speed else SILENT),
        speeds=[speed_text(speed) for speed in run.trained_speeds(stage)],
        answer_prefix=ANSWER_PREFIX,
        separator_id=run.tokenizer.separator_id,
        eos_id=run.tokenizer.eos_id,
        max_thoughts=thinking.max_thoughts,
        min_thoughts=thinking.min_thoughts,
        max_answer_tokens=run.config.decode.max_answer_tokens,
        base=run.config.model.base,
        stage=stage,
        method_settings=dataclasses.asdict(method),
        decode=dataclasses.asdict(run.config.decode),
        trainer=run.config.stages[stage].trainer,
        has_speed=method.has_speed,
        verifier=run.config.data.verifier,
    )


def _card(run: Run, stage: str, facts: ThinkingFacts, *, is_adapter: bool) -> str:
    """The page of the folder, without the paths of the machine of its training."""
    report, base = run.workdir / MARKDOWN_FILE, run.config.model.base
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    method = run.method(stage)
    return model_card(
        stage=stage,
        thinks=ways.WAYS[facts.way].format(num_thoughts=facts.max_thoughts),
        asked=HowAsked(
            question=example_question(run.workdir, stage),
            speeds=tuple(facts.speeds) if method.has_speed else (),
            in_torch=facts.way != ways.OWN and not method.chooses_speed,
        ),
        is_adapter=is_adapter,
        report=text.replace(base, bare_name(base)) if base else text,
        config=change_places(plain(run.config), bare_name) | {"workdir": bare_name(run.config.workdir)},
    )

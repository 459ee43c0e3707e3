"""Prompts that are thought about already, for engines that cannot think in latents: only the answer is left to decode.

An engine that takes input embeddings (vLLM's prompt embeds, transformers' `inputs_embeds`) reads `[S, D]` of each:

    question and ### [prompt tokens, D]     thoughts [L, D], as they were fed     ### [1, D]

and decodes from there on what our decoder decodes.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colar_jax.data.prompts import speed_text
from colar_jax.decoding.prefill import embed_questions
from colar_jax.decoding.prompt_rows import PromptShape, pack_prompts
from colar_jax.errors import UserError
from colar_jax.thinker.answer import Answer
from colar_jax.thinker.thinker import Thinker
from colar_jax.weights.hf_folder import new_folder
from colar_jax.weights.safetensors_io import write_arrays

EMBEDS_FILE, EMBEDS_INDEX_FILE = "prompt_embeds.safetensors", "prompt_embeds.json"


def export_prompt_embeds(
    thinker: Thinker, questions: list[str], out: Path, *, dtype: str = "float32", **options
) -> Path:
    """Think about each question, and write the embeddings that an answer follows; the folder appears whole.

    `prompt_embeds.safetensors` has a tensor `[S, D]` for each, named "0", "1", ... as the questions are numbered;
    `prompt_embeds.json` says of each the question, its tensor, how many positions are prompt and thoughts, and what
    our own decoder answers.

    Args:
        thinker: from `colar_jax.load`.
        questions: at least one.
        out: the folder to make; must not exist, or be empty.
        dtype: of the tensors, "float32" or "bfloat16": that of the engine's model.
        **options: of `Thinker.generate`, such as `speed`, `temperature` and `seed`.

    Raises:
        UserError: a question or an option is wrong, or `out` is not empty.
    """
    _refuse_what_embeddings_do_not_say(thinker)
    with new_folder(out) as folder:
        answers = thinker.generate(questions, num_words=0, **options)
        embeds = [prompt_embeds(thinker, answer) for answer in answers]
        arrays = {str(number): np.asarray(array, jnp.dtype(dtype)) for number, array in enumerate(embeds)}
        write_arrays(arrays, folder / EMBEDS_FILE)
        most = options.get("max_answer_tokens") or thinker.decode.max_answer_tokens
        index = _index(thinker, answers, [len(array) for array in embeds], most) | {"dtype": dtype}
        text = json.dumps(index, indent=2, ensure_ascii=False)
        (folder / EMBEDS_INDEX_FILE).write_text(text + "\n", encoding="utf-8")
    return out


def prompt_embeds(thinker: Thinker, answer: Answer) -> np.ndarray:
    """The embeddings that an answer follows: of its prompt, its thoughts and the end of thinking, float32 `[S, D]`.

    Raises:
        UserError: an engine that is given them would decode something else.
    """
    _refuse_what_embeddings_do_not_say(thinker)
    model, dtype = nnx.merge(thinker.engine.graph, thinker.parameters), jnp.dtype("float32")
    (prompt,) = thinker.prompts([answer.question], answer.speed)
    packed = pack_prompts([prompt], PromptShape(rows=1, positions=len(prompt), width=len(prompt)))
    prompt_PD = embed_questions(model, packed, dtype)[0]
    words_LD = model.llama.embed(answer.reasoning_ids, dtype)
    end_1D = model.llama.embed(np.array([thinker.tokenizer.separator_id]), dtype)
    prompt_PD, words_LD, end_1D = (np.asarray(part) for part in jax.device_get((prompt_PD, words_LD, end_1D)))
    return np.concatenate([prompt_PD, answer.latents, words_LD, end_1D])


def _refuse_what_embeddings_do_not_say(thinker: Thinker) -> None:
    if thinker.method.recipe.conditioning == "own":
        raise UserError(f"stage {thinker.stage} chooses its own speed, which its prompts' embeddings do not show")
    if thinker.method.recipe.counts_tokens:
        raise UserError(
            f"stage {thinker.stage} has latents on the chain's own timeline (latent.timeline='tokens'), and an engine "
            "that is given embeddings numbers their positions one by one"
        )


def _index(thinker: Thinker, answers: list[Answer], num_positions: list[int], max_answer_tokens: int) -> dict[str, Any]:
    return {
        "stage": thinker.stage,
        "hidden_size": int(answers[0].latents.shape[1]),
        "eos_id": thinker.tokenizer.eos_id,
        "max_answer_tokens": max_answer_tokens,
        "prompts": [
            {
                "question": answer.question,
                "tensor": str(number),
                "positions": positions,
                "prompt_tokens": positions - answer.num_thoughts - 1,
                "thoughts": answer.num_thoughts,
                "speed": speed_text(answer.speed),
                "forced_stop": answer.forced_stop,
                "text": answer.text,
                "token_ids": answer.token_ids.tolist(),
            }
            for number, (answer, positions) in enumerate(zip(answers, num_positions, strict=True))
        ],
    }

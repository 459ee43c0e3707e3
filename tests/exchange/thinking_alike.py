"""Whether the PyTorch file of an exported folder thinks what our decoder thinks."""

import importlib.util

import jax
import numpy as np
from flax import nnx

from colar_jax.data.encoding import Prompt
from colar_jax.data.prompts import question_prompt
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.methods.method import decode_limits
from colar_jax.model.execution import Execution


def our_decode(run, parameters, stage, speed):
    """Of every test problem what is thought, and the answer's ids, greedily."""
    tokenizer, told = run.tokenizer, run.method(stage).recipe.told(speed)
    questions = [question_prompt(problem.question, told.said) for problem in run.tests["arithmetic"].problems]
    ids = [np.array([*tokenizer.encode(text), tokenizer.separator_id], np.int32) for text in questions]
    prompts = [Prompt(of_one, told.number) for of_one in ids]
    packed = pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))
    ids = {"separator_id": tokenizer.separator_id, "eos_id": tokenizer.eos_id}
    thinking = run.method(stage).thinking(run.config.decode, tokenizer.separator_id, greedy=True)
    limits = decode_limits(thinking, run.config.decode, **ids, greedy=True)
    keys_B = jax.random.split(jax.random.key(0), len(prompts))
    model = nnx.merge(run.graph, parameters)
    decoded = decode(model, packed, keys_B, thinking.think, limits, Execution())
    for row in range(len(prompts)):
        count, num_tokens = int(decoded.num_thoughts_B[row]), int(decoded.num_answer_tokens_B[row])
        ids = decoded.answer_ids_BA[row, :num_tokens].tolist()
        yield np.asarray(decoded.thoughts[row, :count]), ids[:-1] if ids[-1] == tokenizer.eos_id else ids


def torch_file_of(folder):
    """The PyTorch file that is in a folder, as a module."""
    spec = importlib.util.spec_from_file_location("colar_torch", folder / "colar_torch.py")
    colar_torch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(colar_torch)
    return colar_torch


def assert_thinks_alike(run, parameters, stage, folder, speed=None):
    reasoner = torch_file_of(folder).LatentReasoner.load(folder)
    ours = our_decode(run, parameters, stage, speed or run.trained_speeds(stage)[0])
    for problem, (thoughts, ids) in zip(run.tests["arithmetic"].problems, ours, strict=True):
        theirs = reasoner.answer(problem.question, speed=speed)
        assert theirs.num_latents == len(thoughts)
        assert theirs.answer_ids == ids
        if thoughts.ndim == 2:
            largest = np.abs(thoughts).max(initial=1e-9)
            # Each latent is fed to the next: with these random weights rounding grows some tenfold in three.
            np.testing.assert_allclose(theirs.latents[:3].numpy(), thoughts[:3], atol=1e-4 * largest)
            np.testing.assert_allclose(theirs.latents.numpy(), thoughts, atol=5e-3 * largest)
        else:
            assert theirs.reasoning == run.tokenizer.decode(thoughts.tolist())

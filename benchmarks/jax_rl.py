"""Our side of the reinforcement-learning comparison: the package's own learner, on given token ids."""

from collections.abc import Callable

import jax
import jax_side
import numpy as np
import tokenizers
import transformers
from tokenizers import models

from colar_jax.config import DecodeConfig, OptimizerConfig, RlConfig, StageConfig
from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.problems import Problem
from colar_jax.data.recipe import Recipe
from colar_jax.data.tokenizers import Tokenizer
from colar_jax.engine import Engine
from colar_jax.evaluation.judge import Judge
from colar_jax.methods import METHODS
from colar_jax.metrics import divide
from colar_jax.parallel.mesh import make_mesh, put_rows, replicate
from colar_jax.rl.grpo import make_policy_step
from colar_jax.rl.judging import Questioner
from colar_jax.rl.learner import Learner
from colar_jax.rl.lengths import LengthWeight
from colar_jax.rl.questions import QuestionStream
from colar_jax.rl.rollout import Sampler, ways_to_sample
from colar_jax.training.optimizer import make_optimizer
from colar_jax.training.state import initial_state, join, partition

NEVER = -1  # no token ends an answer: the work is the same for everyone


def reinforcement(
    questions: list[list[int]],
    num_generations: int,
    minibatch_size: int,
    subject: jax_side.Subject = jax_side.MICRO,
    *,
    latents: int = 64,
) -> tuple[Callable[[], int], Callable[[], int]]:
    """Two functions that return the number of their rollouts: the rollouts alone, and a whole iteration.

    All chains have 64 latents, and 16 answer tokens. The second has `facts`, what was measured in its last call.
    """
    sampling = DecodeConfig(min_latents=latents, max_latents=latents, min_latent_std=0.2)
    rl = RlConfig(
        num_questions=len(questions), num_generations=num_generations, minibatch_size=minibatch_size, min_std=0.2
    )
    stage, method, mesh = StageConfig(method="colar", trainer="grpo", rl=rl), METHODS["colar"](), make_mesh()
    graph, parameters = jax_side.build(subject)
    trainable, frozen = partition(parameters, ("llama", "latent_head"))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-6, schedule="constant"), 1)
    engine, judge = Engine(graph, mesh, subject.compute), Judge(_tokenizer(subject.llama.vocab_size))
    step = make_policy_step(engine, stage, sampling, jax_side.SEPARATOR, optimizer)
    state = replicate(initial_state(trainable, optimizer), mesh)
    sampler = Sampler(
        engine,
        ways_to_sample(engine, method, sampling, judge.tokenizer, num_generations=num_generations),
        batch_size=len(questions),
        prompt_lengths=np.array([len(question) + 1 for question in questions]),
    )  # fmt: skip
    questioner = Questioner(
        config=rl, sampling=sampling, encoded=_encode(questions), judge=judge,
        recipe=Recipe(speeds=(5.0,)), sampler=sampler, seed=0,
        reward=lambda problems, answers, lengths: [float(number % 2) for number in range(len(answers))],
    )  # fmt: skip
    stream, rows = QuestionStream(len(questions), 0), minibatch_size // num_generations
    learner = Learner(questioner, stream, LengthWeight(rl, rl.length_weight), row_rooms=(rows,))
    prompts = [np.array([*question, jax_side.SEPARATOR], np.int32) for question in questions]
    key, count = jax.random.key(0), 0

    def rollout() -> int:
        parts = sampler.run(join(state.trainable, frozen), prompts, jax.random.key(1))
        return sum(len(part.num_thoughts_B) for _, part in parts)

    def update(state, batch):
        return step(state, frozen, put_rows(batch, mesh), key)

    def iteration() -> int:
        nonlocal state, count
        state, metrics, num_chains = learner.iterate(state, lambda s: join(s.trainable, frozen), update, count)
        count += 1
        values = divide(metrics)
        assert values["length"] == latents and values["updates"] == len(prompts) * num_generations / minibatch_size
        iteration.facts = {name: values[name] for name in ("time/host_share", "time/rollout_share", "gap/latent")}
        return num_chains

    return rollout, iteration


def _encode(questions: list[list[int]]) -> EncodedProblems:
    nothing = (np.zeros(0, np.int32),) * len(questions)
    heads = tuple(np.array(question, np.int32) for question in questions)
    problems = tuple(Problem("", (), str(number)) for number in range(len(questions)))
    return EncodedProblems(problems, heads, {"5": nothing[0]}, nothing, nothing, jax_side.SEPARATOR, NEVER)


def _tokenizer(vocab: int) -> Tokenizer:
    words = tokenizers.Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocab)}, unk_token="w2"))
    hf = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w2")
    return Tokenizer(hf, jax_side.SEPARATOR, NEVER, 2, vocab)

"""The inspector on latents that are known: sums of embeddings that are orthogonal, so that every cosine is a number."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colar_jax.config import DecodeConfig
from colar_jax.data.encoding import encode
from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.engine import Engine
from colar_jax.evaluation.evaluator import Evaluator, Workload
from colar_jax.evaluation.inspector import Inspector
from colar_jax.evaluation.judge import Judge
from colar_jax.evaluation.latents import Latent, Word, chunk_recall, gold_groups, nearest_tokens
from colar_jax.evaluation.samples import samples_of
from colar_jax.methods import METHODS
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build
from colar_jax.parallel.mesh import make_mesh
from colar_jax.settings.speeds import ASKED_PHASE

PROBLEMS = [
    Problem("How many apples now?", ("<<3*9=27>>",), "7"),
    Problem("Tom has more. How many pens now?", ("<<3*9=27>>", "<<27+5=32>>"), "9"),
]
STD, EMBED_STD, STOP_LOGIT = 0.25, 0.5, 2.0
HIDDEN = 180  # even, and a dimension for every token
THOUGHT = ("27", "=")  # what every latent is the sum of
DECODE = DecodeConfig(max_latents=4, min_latents=3, max_answer_tokens=2, max_step_tokens=4, greedy_stop="argmax")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode(PROBLEMS, tokenizer, (1.0, 2.0))


@pytest.fixture(scope="module")
def by_hand(tokenizer):
    """Every token has a dimension of its own, no layer does anything, and the latent head always says `THOUGHT`.

    The hidden state is the last input, normalised. After a latent the language head gives `###` a logit of STOP_LOGIT,
    "27" a larger one only before the first, and 0 to every other token.
    """
    vocabulary, size = tokenizer.num_tokens, HIDDEN
    assert vocabulary <= size
    config = LlamaConfig(vocabulary, size, 1, 1, 1, head_dim=size, intermediate_size=size, tied_head=False)
    graph, parameters = build(config, LatentHeadConfig(8), seed=0)
    parameters = jax.tree.map(jnp.zeros_like, parameters)
    first, second = (tokenizer.encode(text)[0] for text in THOUGHT)
    opening, closing = tokenizer.separator_id, tokenizer.separator_id
    of_latent = math.sqrt(size / 2)  # each of the two dimensions of a normalised latent
    head = np.zeros((vocabulary, size), np.float32)
    head[closing, first] = STOP_LOGIT / of_latent
    head[first, opening] = 1.0
    llama = parameters["llama"]
    llama["embedding"], llama["head"] = jnp.eye(vocabulary, size), jnp.array(head)
    llama["final_norm"]["scale"] = jnp.ones(size)
    latent = parameters["latent_head"]
    latent["embed_std"] = jnp.float32(EMBED_STD)
    latent["mean"]["bias"] = (jnp.eye(size)[first] + jnp.eye(size)[second]) / math.sqrt(2) / EMBED_STD
    latent["log_std"]["bias"] = jnp.full(size, math.log(STD))
    return graph, parameters


def inspector(model, tokenizer, method="colar") -> Inspector:
    mesh = make_mesh(jax.devices()[:1])
    return Inspector(Engine(model[0], mesh), METHODS[method](), Judge(tokenizer), DECODE, batch_size=2)


def test_a_latent_is_read_as_the_tokens_it_is_made_of(by_hand, tokenizer, encoded):
    chains = inspector(by_hand, tokenizer).look(by_hand[1], encoded, 2.0, num_words=2)
    assert len(chains) == 2
    p_stop = math.exp(STOP_LOGIT) / (math.exp(STOP_LOGIT) + tokenizer.num_tokens - 1)
    for chain in chains:
        assert chain.reasoning == "" and len(chain.latents) == 3, "min_latents, and then ### is the likeliest"
        for latent in chain.latents:
            assert {word.text for word in latent.words} == set(THOUGHT)
            assert [word.token_id for word in latent.words] == [tokenizer.encode(word.text)[0] for word in latent.words]
            assert [word.score for word in latent.words] == pytest.approx([1 / math.sqrt(2)] * 2)
            assert latent.std == pytest.approx(STD)
        # No decision before min_latents.
        assert [latent.p_stop for latent in chain.latents] == pytest.approx([0.0, 0.0, p_stop], rel=1e-3)
        heads = [latent.head_words[0] for latent in chain.latents]
        assert [word.text for word in heads] == ["27", "###", "###"]
        assert [word.score for word in heads[1:]] == pytest.approx([p_stop] * 2, rel=1e-3)


@pytest.mark.slow
def test_samples_say_what_was_thought(by_hand, tokenizer, encoded):
    mesh = make_mesh(jax.devices()[:1])
    for method, speed in (("colar", 2.0), ("cot", 1.0)):
        evaluator = Evaluator(
            Engine(by_hand[0], mesh),
            METHODS[method](),
            Judge(tokenizer),
            DECODE,
            Workload([encoded], (1.0, 2.0), batch_size=2),
        )
        outcome = evaluator.run(by_hand[1], encoded, speed, seed=None)
        chains = inspector(by_hand, tokenizer, method).look(by_hand[1], encoded, speed, num_words=1)
        assert [chain.text for chain in chains] == outcome.texts
        assert [chain.right for chain in chains] == outcome.right_N.tolist()
        (sample, _) = samples_of(encoded, outcome, chains, stage=method)
        (bare, _) = samples_of(encoded, outcome, stage=method)
        assert bare == sample | {"reasoning": "", "latents": []}
        if method == "colar":
            assert sample["reasoning"] == "" and len(sample["latents"]) == sample["length"] == 3
            (word, cosine), *others = sample["latents"][-1]["words"]
            assert word in THOUGHT and cosine == 0.7071 and not others
            assert sample["latents"][-1].keys() == {"words", "std", "p_stop"}
        else:
            assert sample["latents"] == []
            assert tokenizer.encode(sample["reasoning"])[0] == tokenizer.encode("27")[0]
            assert len(tokenizer.encode(sample["reasoning"])) == sample["length"] > 0


def test_looking_changes_nothing_that_is_thought(by_hand, tokenizer, encoded):
    looks = inspector(by_hand, tokenizer)
    fed = looks.thoughts(by_hand[1], encoded, 2.0)
    assert fed.num_thoughts_B.tolist() == [3, 3]
    latent = np.zeros(HIDDEN)
    latent[[tokenizer.encode(text)[0] for text in THOUGHT]] = 1 / math.sqrt(2)
    np.testing.assert_allclose(fed.embeds_BLD[:, :3], np.broadcast_to(latent, (2, 3, len(latent))), atol=1e-6)


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_nearest_tokens_of_sums_are_the_summands(num_tokens):
    rng = np.random.default_rng(num_tokens)
    embedding_VD = np.linalg.qr(rng.normal(size=(64, 64)))[0][:40].astype(np.float32) * rng.uniform(0.5, 2, (40, 1))
    embedding_VD[7] = 0  # a row that was never used
    chosen = [rng.choice(np.arange(8, 40), num_tokens, replace=False) for _ in range(6)]
    units_VD = embedding_VD / np.maximum(np.linalg.norm(embedding_VD, axis=1, keepdims=True), 1e-9)
    sums_ND = np.stack([3.0 * units_VD[ids].sum(axis=0) for ids in chosen]).astype(np.float32)
    ids_NK, cosines_NK = jax.jit(nearest_tokens, static_argnums=2)(sums_ND, embedding_VD.astype(np.float32), num_tokens)
    for ids_K, ids in zip(np.asarray(ids_NK), chosen, strict=True):
        assert set(ids_K.tolist()) == set(ids.tolist())
    np.testing.assert_allclose(cosines_NK, 1 / math.sqrt(num_tokens), rtol=1e-5)
    np.testing.assert_array_equal(nearest_tokens(jnp.zeros((1, 64)), embedding_VD, 1)[1], 0)


def test_chunk_recall_counts_the_tokens_of_each_group(tokenizer, encoded):
    def latent(*texts: str) -> Latent:
        words = tuple(Word(tokenizer.encode(text)[0], text, 1.0) for text in texts)
        return Latent(words, (), 0.0, 0.0)

    texts = [[tokenizer.token_text(i) for i in group] for group in gold_groups(encoded, 0, 2.0)]
    assert texts == [["<<", "3"], ["*", "9"], ["=", "27"], [">>"]]
    # Of 7 tokens: both of the first group at 3, one at 1; none of the second, whose words are the third's.
    chain = [latent("3", "5", "<<"), latent("=", "27", "5"), latent("27", "*", "9")]
    recall = chunk_recall([chain], dataclasses.replace(encoded, problems=encoded.problems[:1]), 2.0, ks=(1, 2, 3))
    assert recall == {1: 2 / 7, 2: 2 / 7, 3: 3 / 7}
    assert chunk_recall([[], []], encoded, 2.0, ks=(1,)) == {1: 0.0}
    # A model that is told numbers makes other groups of a fraction: 2, 2, 3 tokens at 2.3 and not 2, 2, 2, 1.
    assert [len(group) for group in gold_groups(encoded, 0, 2.3, ASKED_PHASE)] == [2, 2, 3]
    alone = dataclasses.replace(encoded, problems=encoded.problems[:1])
    of_three = [*chain[:2], latent("27", ">>", "9")]
    assert chunk_recall([of_three], alone, 2.3, ks=(3,), phase=ASKED_PHASE) == {3: 4 / 7}
    assert chunk_recall([of_three], alone, 2.3, ks=(3,)) == {3: 3 / 7}
    with pytest.raises(ValueError, match="chunk recall at 5 needs that many words of each latent, got 3"):
        chunk_recall([chain], encoded, 2.0, ks=(1, 5))

"""Causal tests on two models by hand: the answer of one depends on its latents alone, that of the other not at all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast

from colar_jax.config import DecodeConfig
from colar_jax.data.encoding import encode
from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.decoding.replay import FedThoughts
from colar_jax.decoding.thinking import Thought
from colar_jax.engine import Engine
from colar_jax.evaluation.causal import (
    INTERVENTIONS,
    OF_A_FIXED_NUMBER,
    are_changed,
    are_used,
    causal_tests,
    with_verdicts,
)
from colar_jax.evaluation.inspector import Inspector
from colar_jax.evaluation.judge import Judge
from colar_jax.methods import METHODS
from colar_jax.methods.colar import Colar
from colar_jax.methods.method import Thinking
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.llama_config import LlamaConfig
from colar_jax.model.reasoner import build
from colar_jax.parallel.mesh import make_mesh

# Dimensions: what was asked about, what a thought is about, and what was fed last.
ASKED, THOUGHT, SEPARATOR, ANSWER, NUMBER, SIZE = slice(0, 3), slice(3, 6), 6, 7, 8, 10
TOPICS = {"apples": "7", "books": "8", "pens": "9"}
PROBLEMS = [Problem(f"How many {topic} now?", (), answer) for topic, answer in TOPICS.items()] * 10


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode(PROBLEMS, tokenizer, (2.0,))


def model_that_reads(place: slice, tokenizer):
    """Says `Answer:`, a number and eos; the number goes by what is in `place` of all that was fed so far.

    Its one layer adds the average of all normalised inputs to the last one; the last token decides what follows, and
    where that leaves a choice, the topic does.
    """

    def token(text: str) -> int:
        (token_id,) = tokenizer.encode(text)
        return token_id

    embedding = np.zeros((tokenizer.num_tokens, SIZE), np.float32)
    head = np.zeros_like(embedding)
    embedding[token("###"), SEPARATOR] = embedding[token("Answer:"), ANSWER] = 1
    head[token("Answer:"), SEPARATOR] = head[tokenizer.eos_id, NUMBER] = 100
    for index, (topic, answer) in enumerate(TOPICS.items()):
        embedding[token(topic), ASKED][index] = embedding[token(answer), NUMBER] = 1
        head[token(answer), ANSWER] = 100
        head[token(answer), place][index] = 30
    config = LlamaConfig(tokenizer.num_tokens, SIZE, 1, 1, 1, head_dim=SIZE, intermediate_size=SIZE, tied_head=False)
    graph, parameters = build(config, LatentHeadConfig(SIZE), seed=0)
    llama = jax.tree.map(jnp.zeros_like, parameters["llama"])
    for norm in ("attention_norm", "mlp_norm"):
        llama["blocks"][norm]["scale"] = jnp.ones((1, SIZE))
    llama["final_norm"]["scale"] = jnp.ones(SIZE)
    llama["blocks"]["value"]["kernel"] = llama["blocks"]["out"]["kernel"] = jnp.eye(SIZE)[None]
    return graph, parameters | {"llama": llama | {"embedding": jnp.array(embedding), "head": jnp.array(head)}}


def thinks_of_what_was_asked(decode, separator_id, *, greedy) -> Thinking:
    """Two latents, both of the topic."""

    def think(model, hidden_BD, keys_B) -> Thought:
        topic_BT = jax.nn.one_hot(jnp.argmax(hidden_BD[:, ASKED], axis=1), 3)
        nothing_B = jnp.zeros(len(hidden_BD))
        embed_BD = jnp.zeros_like(hidden_BD).at[:, THOUGHT].set(topic_BT)
        return Thought(embed_BD, nothing_B, nothing_B, jnp.ones(len(hidden_BD), bool), nothing_B)

    return Thinking(think, max_thoughts=4, min_thoughts=2)


class ThinksOfWhatWasAsked(Colar):
    def thinking(self, *how, **greedy):
        return thinks_of_what_was_asked(*how, **greedy)


def inspector(model, tokenizer, method=None) -> Inspector:
    method = method or ThinksOfWhatWasAsked()
    mesh = make_mesh(jax.devices()[:1])
    config = DecodeConfig(max_answer_tokens=4)
    return Inspector(Engine(model[0], mesh), method, Judge(tokenizer), config, batch_size=16)


def rows_of(model, tokenizer, encoded) -> dict[str, dict]:
    rows = causal_tests(inspector(model, tokenizer), model[1], encoded, 2.0, stage="by hand")
    assert [row["intervention"] for row in rows] == list(INTERVENTIONS)
    assert all((row["stage"], row["speed"]) == ("by hand", "2") for row in rows)
    return {row["intervention"]: row for row in rows}


def test_a_model_that_reads_its_latents_uses_them(tokenizer, encoded):
    rows = rows_of(model_that_reads(THOUGHT, tokenizer), tokenizer, encoded)
    assert rows["none"]["accuracy"] == 1 and not rows["none"]["used"]
    # Without a thought every number is as likely: the first in the vocabulary is said, and right a third of the time.
    assert rows["zero"]["accuracy"] == pytest.approx(1 / 3)
    assert rows["zero"]["difference"] == pytest.approx(-2 / 3)
    low, high = rows["zero"]["interval"]
    assert -1 < low < -2 / 3 < high < 0 and rows["zero"]["used"]
    assert rows["shuffle"]["accuracy"] < 0.7 and rows["shuffle"]["used"]
    # Both latents are alike, so that neither their order, which nobody changes then, nor a second one matters.
    for name, used in {"swap": None, "truncate": False}.items():
        assert rows[name]["accuracy"] == 1 and rows[name]["interval"] == [0, 0] and rows[name]["used"] is used
    assert are_used(list(rows.values()))


def test_a_model_that_reads_its_question_alone_does_not(tokenizer, encoded):
    rows = rows_of(model_that_reads(ASKED, tokenizer), tokenizer, encoded)
    for name, row in rows.items():
        assert (row["accuracy"], row["difference"], row["interval"]) == (1, 0, [0, 0])
        assert row["used"] is (None if name == "swap" else False)
    assert not are_used(list(rows.values()))


@pytest.mark.parametrize(("questions", "flips"), fast([(60, 0.3), (500, 0.04), (500, 0.3)], (500, 0.04)))
@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_latents_without_any_use_are_called_used_at_most_five_times_in_a_hundred(questions, flips, alike):
    """Every change flips answers at random, as often to wrong as to right; `alike` is the share of flips in common."""
    rng = np.random.default_rng(0)
    trials, verdicts, best_of_four = 1000, [], []
    for _ in range(trials):
        hidden = rng.random((5, questions))
        common = rng.random(questions) < alike
        right_of = {}
        for name, own in zip(INTERVENTIONS, hidden, strict=True):
            drawn = np.where(common, hidden[1], own) if name != "none" else own
            right_of[name] = np.where(np.arange(questions) < flips * questions, drawn < 0.5, True)
        rows = with_verdicts(right_of, resamples=200)
        verdicts.append(are_used(rows))
        best_of_four.append(any(row["interval"][1] < 0 for row in rows))
    assert np.mean(verdicts) <= 0.05
    if alike == 0:
        assert np.mean(best_of_four) > 0.05  # what the rows' own intervals would have said


def test_a_fall_is_found_where_there_is_one():
    right_N = np.ones(200, bool)
    changed = {name: np.arange(200) >= 12 * (name == "zero") for name in INTERVENTIONS}
    rows = {row["intervention"]: row for row in with_verdicts(changed | {"none": right_N})}
    assert [name for name, row in rows.items() if row["used"]] == ["zero"] and are_used(list(rows.values()))
    assert rows["zero"]["p"] == pytest.approx(0.5**12) and rows["none"]["p"] is None and rows["swap"]["p"] == 1.0


@pytest.mark.parametrize(("num_right", "used"), [(0, None), (6, None), (7, True), (100, True)])
def test_where_too_few_answers_are_right_no_fall_can_be_shown(num_right, used):
    """Of four tests the surest needs seven answers that fall: 0.5^6 > 0.05 / 4."""
    right_N = np.arange(100) < num_right
    every_fall = {name: right_N if name == "none" else np.zeros(100, bool) for name in INTERVENTIONS}
    rows = {row["intervention"]: row for row in with_verdicts(every_fall)}
    assert {name: row["used"] for name, row in rows.items()} == {
        name: False if name == "none" else used for name in INTERVENTIONS
    }
    assert are_used(list(rows.values())) is bool(used)
    unmoved = with_verdicts(dict.fromkeys(INTERVENTIONS, right_N))
    assert [row["used"] for row in unmoved[1:]] == [used and False] * 4


def test_a_change_that_touches_too_few_chains_shows_nothing():
    """As where latents change places and nearly all chains have one."""
    right_N, every_N = np.arange(100) < 50, np.ones(100, bool)
    changed_of = {name: np.arange(100) < 4 if name == "swap" else every_N for name in INTERVENTIONS}
    fallen = {name: right_N & ~changed_of[name] if name != "none" else right_N for name in INTERVENTIONS}
    used = {row["intervention"]: row["used"] for row in with_verdicts(fallen, changed_of)}
    assert used == {"none": False, "zero": True, "shuffle": True, "swap": None, "truncate": True}


def test_what_is_done_to_the_thoughts():
    embeds_NLD = np.arange(5 * 4 * 2, dtype=np.float32).reshape(5, 4, 2) + 1
    given = FedThoughts(embeds_NLD, np.array([4, 3, 1, 0, 2]), own_speeds_B=np.array([1.0, 2, 2, 5, 1.5]))
    every = INTERVENTIONS | OF_A_FIXED_NUMBER
    done = {name: change(given, np.random.default_rng(0)) for name, change in every.items()}
    assert done["none"] is given
    assert not done["zero"].embeds_BLD.any() and done["zero"].num_thoughts_B is given.num_thoughts_B
    assert done["truncate"].num_thoughts_B.tolist() == [2, 1, 0, 0, 1]
    assert done["zero_half"].num_thoughts_B is given.num_thoughts_B
    for before, after, kept in zip(embeds_NLD, done["zero_half"].embeds_BLD, [2, 1, 0, 0, 1], strict=True):
        assert (after[:kept] == before[:kept]).all() and not after[kept:].any()

    donors = [int(np.flatnonzero((embeds_NLD == chain).all(axis=(1, 2)))[0]) for chain in done["shuffle"].embeds_BLD]
    assert sorted(donors) == list(range(5)) and all(donor != own for own, donor in enumerate(donors))
    assert done["shuffle"].num_thoughts_B.tolist() == given.num_thoughts_B[donors].tolist()
    assert done["shuffle"].own_speeds_B.tolist() == given.own_speeds_B[donors].tolist()
    changed = {name: are_changed(given, fed).tolist() for name, fed in done.items()}
    has_two, has_one = [[count >= least for count in given.num_thoughts_B] for least in (2, 1)]
    assert changed == {
        "none": [False] * 5, "zero": has_one, "shuffle": [True] * 5, "swap": has_two, "truncate": has_one,
        "zero_half": has_one,
    }  # fmt: skip
    faster = dataclasses.replace(given, own_speeds_B=np.array([1.0, 2, 2, 2, 1.5]))
    assert are_changed(given, faster).tolist() == [False, False, False, True, False]

    for before, after, count in zip(embeds_NLD, done["swap"].embeds_BLD, given.num_thoughts_B, strict=True):
        moved = np.flatnonzero((before != after).any(axis=1))
        assert len(moved) == (2 if count > 1 else 0) and (moved < count).all()
        np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    np.testing.assert_array_equal(embeds_NLD.ravel(), np.arange(40) + 1)  # what was given is as it was


class AlwaysThinksTwice(ThinksOfWhatWasAsked):
    """A method that has two latents in training as well."""

    def thinking(self, *how, **greedy):
        return dataclasses.replace(super().thinking(*how, **greedy), max_thoughts=2, is_fixed=True)


def test_a_chain_of_a_fixed_number_keeps_its_length(tokenizer, encoded):
    model = model_that_reads(THOUGHT, tokenizer)
    tests = causal_tests(inspector(model, tokenizer, AlwaysThinksTwice()), model[1], encoded, 2.0)
    rows = {row["intervention"]: row for row in tests}
    assert list(rows) == ["none", "zero", "shuffle", "swap", "zero_half"]
    # One of two like latents is enough.
    assert rows["zero_half"]["accuracy"] == 1 and rows["zero_half"]["used"] is False and rows["zero"]["used"]


@pytest.mark.parametrize("name", METHODS)
def test_which_methods_always_think_as_many(name):
    decode = DecodeConfig(max_latents=5, min_latents=5)
    thinking = METHODS[name]().thinking(decode, 0, greedy=True)
    always = {"coconut", "sim_coconut", "codi", "sim_codi", "pccot", "kava"}
    assert thinking.is_fixed is (name in always), thinking


def test_words_and_no_thoughts_are_refused(tokenizer, encoded):
    model = model_that_reads(ASKED, tokenizer)
    for method in ("cot", "no_cot"):
        with pytest.raises(ValueError, match="this method has none: choose a stage that thinks in them"):
            causal_tests(inspector(model, tokenizer, METHODS[method]()), model[1], encoded, 2.0)

"""A speed that changes in mid-chain: told beforehand, or chosen by the model at every latent."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import fast
from flax import nnx
from model.told_model import problems
from pico_model import COMPUTE, EMBED_STD, SEPARATOR, VOCABULARY
from pipeline.tiny import tiny_config_dict

from colar_jax.config import resolve, stage_defaults
from colar_jax.data.encoding import Prompt
from colar_jax.data.recipe import SpeedChange
from colar_jax.data.speed_changes import SpeedChanges, draw_changes
from colar_jax.decoding.decoder import decode
from colar_jax.decoding.prefill import Feeder, prefill
from colar_jax.decoding.prompt_rows import pack_prompts, shape_for
from colar_jax.decoding.replay import FedThoughts, answer_after
from colar_jax.decoding.streaming import StreamedThought, StreamedToken, Streamer
from colar_jax.errors import UserError
from colar_jax.evaluation.evaluator import chosen_speeds
from colar_jax.methods import method
from colar_jax.methods.colar import with_told
from colar_jax.methods.own_speed import ENDS_LINE, IS_CHOICE, OwnSpeed
from colar_jax.model.latent_head import LatentHeadConfig
from colar_jax.model.presets import PRESETS
from colar_jax.model.reasoner import build
from colar_jax.model.speed_choice import SpeedChoice
from colar_jax.model.timeline import tokens_before
from colar_jax.runs import pipeline
from colar_jax.runs.run import prepare
from colar_jax.runs.speed_labels import RIGHT_LATER_FILE, _told_of_changes
from colar_jax.settings import DecodeConfig
from colar_jax.settings.speeds import OWN_NUMBER

ONE_SPEED = OwnSpeed(grid="1,2,4", timeline="tokens")
MID_CHAIN = OwnSpeed(grid="1,2,4", timeline="tokens", mid_chain=True)
DECODE = DecodeConfig(max_latents=6, min_latents=6, max_answer_tokens=3)
IDS = [
    np.append(np.random.default_rng(n).integers(10, VOCABULARY, n), SEPARATOR).astype(np.int32) for n in range(4, 12)
]
KEYS = jax.random.split(jax.random.key(0), len(IDS))


@functools.cache
def model():
    llama = dataclasses.replace(PRESETS["pico"], vocab_size=VOCABULARY)
    graph, parameters = build(llama, LatentHeadConfig(24), 0, modules=MID_CHAIN.modules)
    rng = np.random.default_rng(0)
    parameters = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), parameters)
    parameters["latent_head"]["embed_std"] = EMBED_STD
    return graph, parameters


def ways(of: OwnSpeed):
    thinking = of.thinking(DECODE, SEPARATOR, greedy=True)
    return thinking.think, method.decode_limits(thinking, DECODE, separator_id=SEPARATOR, eos_id=1, greedy=True)


def packed(prompts):
    return pack_prompts(prompts, shape_for([np.array([len(prompt) for prompt in prompts])]))


@functools.cache
def decoded(number, change=None, of=MID_CHAIN):
    prompts, (graph, parameters) = packed([Prompt(ids, number, change) for ids in IDS]), model()
    run = jax.jit(lambda tree: decode(nnx.merge(graph, tree), prompts, KEYS, *ways(of), COMPUTE))
    return jax.device_get(run(parameters))


@pytest.mark.slow
def test_a_speed_that_does_not_change_is_as_it_was():
    plain = decoded(2.0, of=ONE_SPEED)
    assert plain.speeds_BL is None
    for same in (decoded(2.0), decoded(2.0, SpeedChange(3, 2.0)), decoded(2.0, SpeedChange(3, 2.0), ONE_SPEED)):
        np.testing.assert_allclose(same.thoughts, plain.thoughts, atol=1e-5)
        np.testing.assert_allclose(same.answer_log_probs_BA, plain.answer_log_probs_BA, atol=1e-4)
        assert (same.speeds_BL == 2).all()


@pytest.mark.parametrize("after", fast([1, 3], 3))
def test_a_change_is_told_with_the_latent_before_it(after):
    plain, changed = decoded(2.0), decoded(2.0, SpeedChange(after, 4.0))
    same = np.isclose(changed.thoughts, plain.thoughts, atol=1e-5).all(axis=(0, 2))
    # The latent after which the speed changes is made of what came before it; those that follow know of it.
    assert same.tolist() == [True] * after + [False] * (6 - after)
    assert (changed.speeds_BL == np.where(np.arange(7) < after, 2, 4)).all()


@pytest.mark.slow
def test_the_pace_is_the_grouping_s():
    """Positions and sizes of latents whose speed changes after the third: 2, 2, 2, 4, 4, ... tokens."""
    prompts = packed([Prompt(ids, 2.0, SpeedChange(3, 4.0)) for ids in IDS])
    seen = []

    class Spy(Feeder):
        def feed(self, embeds_BD, num_fed_B, is_real_B, suffix):
            jax.debug.callback(lambda at_B: seen.append(int(at_B[0])), num_fed_B, ordered=True)
            return super().feed(embeds_BD, num_fed_B, is_real_B, suffix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colar_jax.decoding.decoder.Feeder", Spy)
        jax.jit(lambda tree: decode(nnx.merge(model()[0], tree), prompts, KEYS, *ways(MID_CHAIN), COMPUTE))(model()[1])
    jax.effects_barrier()
    # A latent stands where the last token of its group would, counted from the one after the opening separator.
    assert seen[:6] == [1, 3, 5, 9, 13, 17] and seen[6] == 18


@pytest.mark.slow
def test_a_model_chooses_anew_where_lines_end():
    own = decoded(OWN_NUMBER)
    np.testing.assert_array_equal(own.speeds_BL[:, 0], own.own_speeds_B)
    assert {1.0, 2.0, 4.0} >= set(own.speeds_BL.ravel()) and (own.speeds_BL[:, 1:] != own.speeds_BL[:, :1]).any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeedChoice, "line_end", lambda self, hidden: -jnp.ones(hidden.shape[:-1]))
        decoded.cache_clear()
        never = decoded(OWN_NUMBER)
        decoded.cache_clear()
    np.testing.assert_array_equal(never.own_speeds_B, own.own_speeds_B)
    assert (never.speeds_BL == never.speeds_BL[:, :1]).all()


def test_the_loss_is_that_of_choices_and_of_lines():
    """By hand, of one example: the mean of two choices, and that of all latents' line ends."""
    changes = SpeedChanges(2.0 * np.ones(4), np.full(4, 2), np.full(4, 5))
    starts = (np.array([0, 4, 6]),) * 4
    encoded = dataclasses.replace(
        problems(), speed_labels=np.full(4, 3), speed_changes=changes, step_starts=starts
    ).head(1)
    batch, reasoner = MID_CHAIN.make_loader(encoded, seed=0, rows=1, row_positions=40).batch(0), nnx.merge(*model())
    loss, metrics = MID_CHAIN.objective(reasoner, batch, None, MID_CHAIN.count(batch), COMPUTE)
    embeds_BSD = with_told(reasoner, method.embed(reasoner, batch, COMPUTE), batch)
    hidden_MD = method.supervised_hidden(reasoner, embeds_BSD, batch, COMPUTE)[0]
    logits_MK, line_M = (
        np.asarray(reasoner.speed_choice(hidden_MD)),
        np.asarray(reasoner.speed_choice.line_end(hidden_MD)),
    )

    def of(log_odds, is_so):
        return np.log1p(np.exp(np.where(is_so, -log_odds, log_odds)))

    choices = of(logits_MK[0], [True, True, False]).mean() + of(logits_MK[2], [True, False, True]).mean()
    ends = np.array([False, True, True, False, True])
    np.testing.assert_allclose(loss, choices / 2 + of(line_M[1:6], ends).mean(), rtol=1e-5)
    assert metrics["line_accuracy"].sum == np.sum((line_M[1:6] > 0) == ends) and metrics["line_accuracy"].count == 5
    # Where no speed was right after the change there is nothing to choose, and lines end all the same.
    none = dataclasses.replace(
        encoded, speed_changes=dataclasses.replace(encoded.speed_changes, labels_N=np.array([-1]))
    )
    other = MID_CHAIN.make_loader(none, seed=0, rows=1, row_positions=40).batch(0).label_ids_BM[0]
    assert (other & IS_CHOICE > 0).tolist()[:6] == [True] + [False] * 5
    assert (other[1:6] & ENDS_LINE).tolist() == (batch.label_ids_BM[0, 1:6] & ENDS_LINE).tolist()


def test_lines_count_by_their_latents_however_many_examples_share_them():
    """As many latents that all say one thing: the loss is the same, in long chains and in short ones, or in none."""

    def lines(lengths):
        steps = tuple(np.arange(2, 2 + length, dtype=np.int32) for length in lengths)
        encoded = problems().head(len(lengths))
        encoded = dataclasses.replace(
            encoded, steps=steps, step_starts=tuple(np.arange(0, length, 2) for length in lengths)
        )
        changes = SpeedChanges(np.full(len(lengths), 2.0), np.zeros(len(lengths), int), np.full(len(lengths), -1))
        encoded = dataclasses.replace(encoded, speed_labels=np.zeros(len(lengths), int), speed_changes=changes)
        batch = MID_CHAIN.make_loader(encoded, seed=0, rows=1, row_positions=80).batch(0)
        counts = MID_CHAIN.count(batch)
        total, metrics = MID_CHAIN.objective(certain, batch, None, counts, COMPUTE)
        return total - metrics["cross_entropy"].sum / counts.labels, int(metrics["line_accuracy"].count)

    certain = nnx.merge(*model())
    certain.speed_choice.line_end = lambda hidden: jnp.full(hidden.shape[:-1], 2.0)
    each = np.log1p(np.exp(-2.0))
    for lengths, latents in (([12], 6), ([4, 4, 4], 6), ([2, 2, 2, 2], 4), ([0, 0], 0)):
        loss, count = lines(lengths)
        assert count == latents
        np.testing.assert_allclose(loss, each if latents else 0.0, rtol=1e-5)


@pytest.mark.slow
def test_replayed_and_streamed_it_is_the_same():
    graph, parameters = model()
    own, prompts = decoded(OWN_NUMBER), [Prompt(ids, OWN_NUMBER) for ids in IDS]
    given = FedThoughts(own.thoughts * EMBED_STD, own.num_thoughts_B, own.speeds_BL)

    def replay(speeds_BL):
        answering = jax.jit(
            lambda tree, fed: answer_after(
                nnx.merge(graph, tree), packed(prompts), fed, KEYS, ways(MID_CHAIN)[1], COMPUTE
            )
        )(parameters, dataclasses.replace(given, speeds_BL=speeds_BL))
        return np.asarray(answering.log_probs_BA)

    np.testing.assert_allclose(replay(own.speeds_BL), own.answer_log_probs_BA, atol=1e-4)
    assert np.abs(replay(np.ones_like(own.speeds_BL)) - own.answer_log_probs_BA).max() > 1e-2
    streamer = Streamer(graph, lambda _: ways(MID_CHAIN), COMPUTE)
    for row in range(2):
        parts = list(streamer.run(parameters, packed(prompts[row : row + 1]), KEYS[row]))
        thoughts = [part.record for part in parts if isinstance(part, StreamedThought)]
        np.testing.assert_allclose(thoughts, own.thoughts[row], atol=1e-4)
        log_probs = [part.log_prob for part in parts if isinstance(part, StreamedToken)]
        np.testing.assert_allclose(log_probs, own.answer_log_probs_BA[row, : len(log_probs)], atol=1e-4)


@pytest.mark.parametrize("of", fast([ONE_SPEED, MID_CHAIN], ONE_SPEED))
def test_another_question_s_chain_is_fed_at_the_speed_that_was_chosen_for_it(of):
    """Its places, and all that is told of it: as of a question that is told that speed."""
    (graph, parameters), own = model(), decoded(OWN_NUMBER, of=of)
    given = FedThoughts(own.thoughts * EMBED_STD, own.num_thoughts_B, own.speeds_BL, own.own_speeds_B)
    others = jax.tree.map(lambda of_B: np.roll(of_B, 1, axis=0), given)
    assert (others.own_speeds_B != own.own_speeds_B).any()

    @jax.jit
    def replay(tree, prompts, fed):
        return answer_after(nnx.merge(graph, tree), prompts, fed, KEYS, ways(of)[1], COMPUTE).log_probs_BA

    def told(numbers_B):
        return packed([Prompt(ids, number) for ids, number in zip(IDS, numbers_B, strict=True)])

    choosing = told([OWN_NUMBER] * len(IDS))
    np.testing.assert_allclose(replay(parameters, choosing, given), own.answer_log_probs_BA, atol=1e-4)
    expected = replay(parameters, told(others.own_speeds_B), dataclasses.replace(others, own_speeds_B=None))
    np.testing.assert_allclose(replay(parameters, choosing, others), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("after", fast([1, 2, 4], 2))
def test_it_learns_from_the_state_in_which_it_is_asked(after):
    """The label of a change is where a decode chooses it: fed the same groups, both have the same hidden state."""
    every = np.ones(4)
    changes = SpeedChanges(2.0 * every, np.full(4, after), np.full(4, 2))
    starts = (np.array([0, 4, 6]),) * 4
    encoded = dataclasses.replace(
        problems(), speed_labels=np.ones(4, np.int64), speed_changes=changes, step_starts=starts
    )
    encoded = encoded.head(1)
    batch = MID_CHAIN.make_loader(encoded, seed=0, rows=1, row_positions=40).batch(0)
    labels = batch.label_ids_BM[0]
    assert labels[0] == 1 | IS_CHOICE and labels[after] & ~ENDS_LINE == 2 | IS_CHOICE
    # Groups of 2, 2, 2, 2 and 1 tokens; the steps begin at 0, 4 and 6. After the last latent comes no label.
    assert (labels[1:6] & ENDS_LINE > 0).tolist() == [False, True, True, False, True] and (labels[6:] < 0).all()

    reasoner = nnx.merge(*model())
    embeds_BSD = method.embed(reasoner, batch, COMPUTE)
    trained_D = method.supervised_hidden(reasoner, with_told(reasoner, embeds_BSD, batch), batch, COMPUTE)[0, after]
    prompts = packed([encoded.ask(0, MID_CHAIN.recipe.told(2.0))])
    feeder = Feeder.of(reasoner, prefill(reasoner, prompts, ways(ONE_SPEED)[1], COMPUTE), COMPUTE)
    hidden_BD, suffix, one = feeder.prefilled.hidden_BD, feeder.empty_suffix(6), np.ones(1, bool)
    opening = len(encoded.prompt(0, ""))
    for number in range(after - 1):
        group_BD = embeds_BSD[:, opening + 1 + number]
        hidden_BD, suffix = feeder.feed_thought(group_BD, jnp.full(1, number), one, suffix)
    np.testing.assert_allclose(hidden_BD[0], trained_D, atol=1e-4)


def test_changes_lie_inside_chains():
    lengths = np.tile([1, 3, 9, 40], 50)
    starts = [np.arange(0, length, 8) for length in lengths]
    changes = draw_changes(lengths, starts, (1.0, 2.0, 4.0), seed=3)
    assert set(changes.speeds_N) == {1.0, 2.0, 4.0}
    before = np.asarray(tokens_before(changes.after_N, changes.speeds_N.astype(np.float32)))
    has_place = lengths > 8
    assert (changes.after_N[~has_place] == 0).all()  # a chain of one line
    assert (before % 8 == 0).all() and (before[has_place] > 0).all() and (before[has_place] < lengths[has_place]).all()
    assert len(set(before[lengths == 40])) == 4
    odd = draw_changes(lengths, [np.arange(0, length, 3) for length in lengths], (2.0, 3.0), seed=3)
    assert set(odd.speeds_N[lengths == 3]) == {2.0, 3.0}  # no place: any speed
    assert set(odd.speeds_N[lengths == 9]) == {2.0, 3.0}  # at 2 after the third latent, at 3 after the first
    again, other = (draw_changes(lengths, starts, (1.0, 2.0, 4.0), seed=seed) for seed in (3, 4))
    assert (again.after_N == changes.after_N).all() and (other.after_N != changes.after_N).any()


def test_chains_without_a_place_are_answered_in_one_batch_with_the_others():
    lengths, starts = np.array([3, 40]), [np.array([0]), np.arange(0, 40, 8)]
    changes = draw_changes(lengths, starts, (1.0, 2.0), seed=1)
    assert changes.after_N[0] == 0 < changes.after_N[1]
    told = _told_of_changes(MID_CHAIN, changes, 2.0)
    prompts = [Prompt(np.arange(5, dtype=np.int32), of.number, of.later) for of in told]
    pack_prompts(prompts, shape_for([np.array([5, 5])]))  # refuses a batch in which some change and others do not


def mid_chain_config(workdir, trainer="sft"):
    config = tiny_config_dict(workdir, run="cot,colar,auto")
    for name in ("colar", "rl"):
        config.stages[name].latent.update(speeds="1..6", conditioning="number", timeline="tokens")
    config.stages.auto = stage_defaults(method="own_speed", trainer=trainer, init_from="colar", steps=3, log_every=1)
    if trainer == "sft":
        config.stages.auto.rows = 2
    config.stages.auto.own_speed.update(grid="1,2,4", num_labelled=10, timeline="tokens", mid_chain=True)
    config.eval.speeds = "2"
    return config


def test_of_a_chain_whose_speed_changes_the_mean_is_told():
    decoded = types.SimpleNamespace(
        own_speeds_B=np.array([4.0, 2.0, 2.0]),
        num_thoughts_B=np.array([3, 0, 1]),
        speeds_BL=np.array([[4.0, 1.0, 2.0, 9.0], [2.0, 9.0, 9.0, 9.0], [2.0, 9.0, 9.0, 9.0]]),
    )
    assert chosen_speeds(decoded, slice(0, 2)).tolist() == [2.33, 2.0]
    decoded.speeds_BL = None
    assert chosen_speeds(decoded, slice(0, 3)).tolist() == [4.0, 2.0, 2.0]
    decoded.own_speeds_B[1] = 0  # told
    assert chosen_speeds(decoded, slice(0, 3)) is None


@pytest.mark.variant
@pytest.mark.slow
def test_a_stage_labels_trains_and_answers(tmp_path):
    """Three stages, one of which labels its questions: too long for CI; `-m slow` runs it."""
    config = resolve(mid_chain_config(tmp_path / "run"))
    results = pipeline.train(config)
    auto = next(result for result in results if result.stage == "auto")
    assert auto.speed == "-" and 1 <= auto.mean_of("chosen_speed") <= 4
    with np.load(tmp_path / "run" / "auto" / RIGHT_LATER_FILE) as kept:
        assert kept["right"].shape == (3, 10) and kept["right"].dtype == bool
        assert kept["speeds"].shape == kept["after"].shape == (10,)
    time_of = (tmp_path / "run" / "auto" / RIGHT_LATER_FILE).stat().st_mtime_ns
    pipeline.train(config)  # there is nothing to do
    assert (tmp_path / "run" / "auto" / RIGHT_LATER_FILE).stat().st_mtime_ns == time_of


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"own_speed.mid_chain=True needs own_speed.timeline='tokens'"):
        OwnSpeed(mid_chain=True)
    config = mid_chain_config(tmp_path / "run", trainer="grpo")
    config.stages.auto.rl.speeds_per_group = 2
    with pytest.raises(UserError, match=r"stages.auto.own_speed.mid_chain=True with trainer='grpo'"):
        resolve(config)
    assert prepare(resolve(mid_chain_config(tmp_path / "other"))).method("auto").mid_chain

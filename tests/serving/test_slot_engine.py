"""What comes out of a slot is what the decoder says, whoever is in the slots beside it and whenever it came."""

import logging

import jax
import jax.numpy as jnp
import pytest
from cases import fast
from decoding.test_decoder import random_model
from serving.pico_slots import PROMPTS, SIZES, SPEED, Answers, ask, assert_same, decoded, programs, slot_engine

from colar_jax.methods.colar import Colar
from colar_jax.serving.slot_cache import own_positions
from colar_jax.serving.slot_engine import SlotEngine

EMBED_STD = float(random_model()[1]["latent_head"]["embed_std"])


def test_a_step_sees_no_more_than_there_is_room_for():
    """With one more, a model whose window is the room would be refused."""
    layer = jnp.zeros((2, 1, 8, 4)), jnp.zeros((2, 1, 8, 4))
    assert own_positions((layer,), jnp.array([0, 7])).reach_of(1) == 8


@pytest.mark.parametrize("temperature", fast([0.0, 0.8], 0.8))
def test_slots_that_are_refilled_say_what_the_decoder_says(temperature):
    answers, waiting = Answers(slot_engine()), list(range(len(PROMPTS)))
    names_of_free = []
    while waiting or answers.engine.num_active:
        while waiting and answers.engine.num_free:
            number = waiting.pop(0)
            answers.put(number, ask(number, temperature=temperature))
        names_of_free.append(answers.go())
    lengths = {len(said.thoughts) for said in answers.said.values()}
    assert len(lengths) >= 2 and sum(map(bool, names_of_free)) >= 3, "they end at different times"
    for number, said in answers.said.items():
        assert_same(said, decoded(number, temperature=temperature), scale=EMBED_STD)


@pytest.mark.slow
@pytest.mark.parametrize("timeline", fast(["latents", "tokens"], "tokens"))
def test_a_slot_is_told_the_speed_as_the_decoder_is(timeline):
    method = Colar(conditioning="number", timeline=timeline)
    answers = Answers(slot_engine(method=method))
    for number, speed in enumerate((SPEED, 6.0)):
        answers.put(number, ask(number, speed_number=speed))
    said = answers.finish()
    assert_same(said[0], decoded(0, method=method), scale=EMBED_STD)
    other = decoded(1, method=method)
    assert len(other.thoughts) != len(said[1].thoughts) or abs(other.thoughts[0] - said[1].thoughts[0]).max() > 0.01


def test_slots_share_steps_at_all_temperatures():
    answers = Answers(slot_engine())
    for number, temperature in enumerate((0.0, 0.8, 0.0, 0.8)):
        answers.put(number, ask(number, temperature=temperature))
        answers.go(1)
    for number, said in answers.finish().items():
        assert_same(said, decoded(number, temperature=(0.0, 0.8)[number % 2]), scale=EMBED_STD)


class OnlyCompiled:
    """A program that may not run: others serve meanwhile, whose memory and time it would take."""

    def __init__(self, program):
        self.lower = program.lower


def test_programs_are_compiled_beside_those_who_serve_and_not_run(caplog):
    own = programs.__wrapped__()
    engine = SlotEngine(own, SIZES, 1)
    prefill, advance = own.prefill, own.advance
    own.prefill, own.advance = OnlyCompiled(prefill), OnlyCompiled(advance)
    assert len(list(engine.compilations())) == sum(engine.num_programs) / 2
    own.prefill, own.advance = prefill, advance
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        answers = Answers(engine)
        answers.put(0, ask(0))
        answers.finish()
    compiled = [message for message in caplog.messages if message.startswith("Finished XLA compilation")]
    assert compiled and not any("_on_devices" in message for message in compiled), compiled

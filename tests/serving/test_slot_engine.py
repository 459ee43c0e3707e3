"""What comes out of a slot is what the decoder says, whoever is in the slots beside it and whenever it came."""

import pytest
from decoding.test_decoder import random_model
from serving.pico_slots import PROMPTS, SPEED, Answers, ask, assert_same, decoded, slot_engine

from colar_jax.methods.colar import Colar

EMBED_STD = float(random_model()[1]["latent_head"]["embed_std"])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
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


def test_a_slot_is_told_the_speed_as_the_decoder_is():
    method = Colar(conditioning="number")
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

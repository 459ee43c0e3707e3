"""Our layout and embedding of steps against the recorded compression, slot by slot.

The published code pads steps to whole groups, and some rows end in slots without any token (their recorded mask is 0);
here there are none. Its sum is divided by `sqrt(n) + 1e-5` (`n + 1e-5` for the mean), which gives up to 1e-5 less than
ours: the tests put that factor in, and then compare to float32 accuracy.
"""

import jax
import numpy as np
import pytest
from golden.published import EOS_ID, SEPARATOR_ID, largest_difference, published_model, recorded

from colar_jax.data.layout import Layout, Supervision, lay_out
from colar_jax.data.packing import RowShape, fill
from colar_jax.model.reasoner import embed_positions

SPEEDS = (1, 2, 3, 4, 5)
TOLERANCE = 1e-6
PROMPT_IDS = np.array([638, 7], np.int32)
SHAPE = RowShape(positions=32, tokens=32, supervised=32)


def step_ids() -> list[np.ndarray]:
    """The recorded steps, without padding and without the `###` that opens them."""
    forward = recorded("forward")
    rows = zip(forward["compression/steps_input_ids"], forward["compression/steps_attention_mask"], strict=True)
    kept = [ids[mask == 1] for ids, mask in rows]
    assert all(row[0] == SEPARATOR_ID for row in kept)
    return [row[1:] for row in kept]


def laid_out(ids_T: np.ndarray, speed: int, draw_T: np.ndarray) -> Layout:
    answer_ids = np.array([EOS_ID], np.int32)
    return lay_out(PROMPT_IDS, ids_T, answer_ids, SEPARATOR_ID, speed, draw_T, Supervision(True))


def slots(layout: Layout) -> slice:
    """The opening separator and the groups; after them comes the closing separator alone."""
    return slice(len(PROMPT_IDS), len(layout.tokens_in_position_S) - 1)


def is_slot(speed: int) -> np.ndarray:
    """Which recorded slots `[rows, slots]` hold a token."""
    name = "compression/r1/steps_attention_mask" if speed == 1 else f"compression/r{speed}/compressed_mask"
    return recorded("forward")[name] == 1


@jax.jit
def embed(token_ids_BT, token_positions_BT, scale_BS):
    embedding_VD = published_model()[1]["llama"]["embedding"]
    return embed_positions(jax.numpy.asarray(embedding_VD), token_ids_BT, token_positions_BT, scale_BS, "float32")


@pytest.mark.parametrize("pooling", ["sqrt", "mean"])
@pytest.mark.parametrize("speed", SPEEDS)
def test_slot_embeddings(speed, pooling):
    name = "r1/embeds" if speed == 1 else f"r{speed}/embeds_{'sqrt_mean' if pooling == 'sqrt' else 'mean'}"
    expected = recorded("forward")[f"compression/{name}"]
    layouts = [laid_out(ids_T, speed, np.zeros(len(ids_T))) for ids_T in step_ids()]
    batch = fill([[layout] for layout in layouts], SHAPE, pooling=pooling)
    embeds_BSD = np.asarray(embed(batch.token_ids_BT, batch.token_positions_BT, batch.scale_BS))
    for row, layout in enumerate(layouts):
        divisor_S = layout.tokens_in_position_S[slots(layout)] ** (0.5 if pooling == "sqrt" else 1.0)
        factor_S = divisor_S / (divisor_S + 1e-5) if speed > 1 else np.ones_like(divisor_S)
        ours_SD = embeds_BSD[row, slots(layout)] * factor_S[:, None]
        assert largest_difference(ours_SD, expected[row, is_slot(speed)[row]]) < TOLERANCE, row


@pytest.mark.parametrize("speed", SPEEDS[1:])
def test_label_candidates(speed):
    """Whatever the draw, a slot's label is one of the recorded candidates, and every one of them can be drawn."""
    forward = recorded("forward")
    candidates, is_candidate = (forward[f"compression/r{speed}/label_candidate{end}"] for end in ("s", "_mask"))
    for row, ids_T in enumerate(step_ids()):
        draws = (np.arange(60) + 0.5) / 60  # evenly spaced, and as many for each candidate: 60 is a multiple of 1 to 5
        labels = np.stack([laid_out(ids_T, speed, np.full(len(ids_T), draw)).label_ids_M for draw in draws])
        real = np.flatnonzero(is_slot(speed)[row])
        for slot, at in enumerate(real):
            expected = candidates[row, at][is_candidate[row, at] == 1]
            np.testing.assert_array_equal(labels[:, slot], np.repeat(expected, len(draws) // len(expected)))
        assert np.all(labels[:, len(real)] == SEPARATOR_ID)


@pytest.mark.parametrize("speed", SPEEDS)
def test_recorded_draw(speed):
    """Drawing the recorded token of each group gives the recorded labels, slot by slot, and nothing between them."""
    forward = recorded("forward")
    for row, ids_T in enumerate(step_ids()):
        real = is_slot(speed)[row]
        draw_T = np.zeros(len(ids_T))
        if speed > 1:
            index_G = forward[f"compression/r{speed}/sampled_index"][row, real][1:]
            starts_G = np.arange(0, len(ids_T), speed)
            draw_T[starts_G] = (index_G + 0.5) / np.minimum(speed, len(ids_T) - starts_G)
        expected = forward[f"compression/r{speed}/{'labels' if speed == 1 else 'sampled_labels'}"][row, real]
        layout = laid_out(ids_T, speed, draw_T)
        np.testing.assert_array_equal(layout.label_ids_M, [*expected, SEPARATOR_ID, EOS_ID])
        np.testing.assert_array_equal(layout.latent_mask_M, [False] + [True] * real.sum() + [False])

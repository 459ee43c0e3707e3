import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colar_jax.data.grouping import full_ends, group_ends, group_of_token, num_groups

lengths = st.integers(0, 300)
# As they are typed: 1.3, 2.25, 4.
speeds = st.decimals(1, 12, places=2).map(float)


def sizes(num_tokens, speed):
    return np.bincount(group_of_token(num_tokens, speed)).tolist()


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (1, [1] * 11),
        (2, [2, 2, 2, 2, 2, 1]),
        (5, [5, 5, 1]),
        (11, [11]),
        (12, [11]),
        (1.5, [1, 2, 1, 2, 1, 2, 1, 1]),
        (3.5, [3, 4, 3, 1]),
        (1.25, [1, 1, 1, 2, 1, 1, 1, 2, 1]),
    ],
)
def test_eleven_tokens(speed, expected):
    assert sizes(11, speed) == expected
    assert group_of_token(11, speed).tolist() == [group for group, size in enumerate(expected) for _ in range(size)]
    assert group_ends(11, speed).tolist() == np.cumsum(expected).tolist()


@settings(deadline=None)
@given(lengths, speeds)
@example(0, 1.5)
@example(63, 1.4)  # 45 * 1.4 is 62.99999999999999
@example(115, 2.3)  # and 50 * 2.3 is 114.99999999999999
def test_every_token_is_in_one_group(num_tokens, speed):
    groups = group_of_token(num_tokens, speed)
    assert len(groups) == num_tokens
    if not num_tokens:
        return
    # Contiguous, in order, none empty.
    assert groups[0] == 0
    assert set(np.diff(groups)) <= {0, 1}
    *full, last = np.bincount(groups)
    assert set(full) <= {math.floor(speed), math.ceil(speed)}
    assert 1 <= last <= math.ceil(speed)


@settings(deadline=None)
@given(st.integers(1, 300), speeds, st.sampled_from([0.3e-9, 0.9e-9, 1e-9, 1.1e-9, 3e-9, 8e-9, 11e-9, 1e-8]))
@example(11, 5.0, 3e-9)  # floor(2 * 5 + phase + 1e-9) is 10, and not 11
@example(7, 3.0, 2e-9)
def test_a_phase_that_falls_just_short_of_a_token_takes_one_more_group_for_it(num_tokens, speed, short_by):
    """The number of groups and their ends round alike, at a phase that lets whole groups end just before the chain."""
    for whole in range(int(num_tokens / speed) + 1):
        phase = num_tokens - whole * speed - short_by
        if 0 <= phase < 1:
            ends, groups = group_ends(num_tokens, speed, phase), group_of_token(num_tokens, speed, phase)
            assert ends[-1] == num_tokens == len(groups)
            assert num_groups(num_tokens, speed, phase) == len(ends) and (np.diff(ends, prepend=0)[1:] > 0).all()


def test_elsewhere_groups_are_what_they_always_were():
    """Bit for bit, at every speed of two decimals and phases as they are drawn."""
    rng = np.random.default_rng(0)
    speeds = np.arange(100, 1201) / 100
    for phase in (0.0, 0.5, *rng.random(6)):
        n = np.arange(0, 300, 7)[:, None]
        was = np.maximum(np.ceil((n - phase) / speeds - 1e-9), 0).astype(np.int64)
        np.testing.assert_array_equal(num_groups(n, speeds, phase), was)
        for speed in speeds[:: 1 if phase == 0 else 29]:
            ends = [math.floor((k + 1) * float(speed) + phase + 1e-9) for k in range(40)]
            assert full_ends(40, float(speed), float(phase)).tolist() == ends


@settings(deadline=None)
@given(lengths, speeds)
def test_the_number_of_groups_and_their_ends_agree(num_tokens, speed):
    ends = group_ends(num_tokens, speed)
    assert num_groups(num_tokens, speed) == len(ends) == len(sizes(num_tokens, speed))
    assert ends.tolist() == np.cumsum(sizes(num_tokens, speed)).tolist()
    # The end of group k is never a whole token away from where k + 1 groups of `speed` tokens would end.
    ideal = np.minimum(speed * np.arange(1, len(ends) + 1), num_tokens)
    assert np.all((ends <= ideal + 1e-6) & (ends > ideal - 1))


@settings(deadline=None)
@given(speeds)
def test_full_groups_have_speed_tokens_on_average(speed):
    # 100 groups of a speed with two decimals hold a whole number of tokens.
    full = sizes(round(100 * speed), speed)
    assert len(full) == 100
    assert np.mean(full) == pytest.approx(speed, abs=1e-9)


def test_many_at_once():
    assert num_groups([0, 1, 10, 11], [2, 2, 2.5, 1.1]).tolist() == [0, 1, 4, 10]
    assert num_groups(np.arange(7), 3).tolist() == [0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("speed", [0.99, 0, -1])
def test_a_position_holds_at_least_one_token(speed):
    for function in (group_ends, group_of_token):
        with pytest.raises(ValueError, match=rf"^speed={speed}: .* at least 1$"):
            function(5, speed)

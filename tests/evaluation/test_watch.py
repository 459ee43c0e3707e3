"""Where a watched chain ends: after agreements, too many segments, a budget, repeats; however often one looks."""

import itertools
import random

import pytest

from colar_jax.evaluation.trimming.watch import RollingHash, TrimRules, Watch, Why
from colar_jax.settings import TrimConfig

# A token is a character: places in text and tokens are the same.
CHAIN = "7.\nWait, 8.\nWait, hm\nWait, 8.\nWait, 8.\nWait, 9.\nWait, 9"
STARTS = [start for start in range(len(CHAIN)) if CHAIN[start:].startswith("Wait")]
ENDS = [start - 1 for start in STARTS]  # a chain that is ended there has no line break at its end


def read(ids) -> str:
    return "".join(map(chr, ids))


def states(segment) -> bool:
    return any(sign.isdigit() for sign in segment.ending)


def digit(segment) -> str:
    return next(sign for sign in segment.ending if sign.isdigit())


def watched(chain: str, step: int, agreements: int = 1, limit: int = 1000, **settings):
    """The chain's watch after it has grown by `step` tokens at a time, with a verifier that reads digits."""
    settings = TrimConfig(cue_after="line", sentences=1, **settings)
    watch, asked = Watch("?", TrimRules(agreements, limit, settings), read), []
    ids = [ord(sign) for sign in chain]
    for size in range(step, len(ids) + step, step):
        segments = watch.grow(ids[:size])
        pairs = watch.stated(segments, [states(segment) for segment in segments])
        watch.hear(pairs, [digit(first) == digit(second) for first, second in pairs])
        asked += [(segment.start, segment.stop) for segment in segments]
    return watch, asked


@pytest.mark.parametrize("step", [1, 3, 7, 100])
@pytest.mark.parametrize(
    ("settings", "end", "why"),
    [
        ({"agreements": 1}, ENDS[3], Why.AGREEMENT),  # 8, (nothing,) 8: what states nothing is passed over
        ({"agreements": 2}, ENDS[4], Why.AGREEMENT),
        ({"agreements": 3}, None, Why.ITSELF),  # 9 begins anew
        ({"agreements": 9, "max_segments": 2}, ENDS[1], Why.SEGMENTS),
        ({"agreements": 2, "max_segments": 5}, ENDS[4], Why.AGREEMENT),
        ({"agreements": 9, "budget_share": 0.02}, 20, Why.BUDGET),
        ({"agreements": 2, "budget_share": 0.05}, ENDS[4], Why.AGREEMENT),
        ({"agreements": 9, "repeat_window": 6, "repeat_times": 3}, ENDS[2], Why.REPEATS),
        ({"agreements": 2, "limit": 5}, None, Why.ITSELF),
    ],
)
def test_where_a_chain_ends_whatever_the_chunks(step, settings, end, why):
    limit = settings.get("limit", 1000)
    watch, _ = watched(CHAIN[:limit], step, **settings)
    assert (watch.end, watch.why) == (end, why)


@pytest.mark.parametrize("agreements", [1, 2, 3, 9])
@pytest.mark.parametrize("settings", [{}, {"max_segments": 3}, {"budget_share": 0.045}])
def test_with_repeats_a_chain_ends_at_the_same_place_whatever_the_chunks(agreements, settings):
    """Of an agreement and a repeat the one that is known first ends it, though the other may lie before it."""
    whys = set()
    for chain in (CHAIN, CHAIN[12:], CHAIN + CHAIN[-20:], CHAIN.replace("\nWait, 8", "\nWait, 8. Is it?")):
        for window, times in itertools.product((3, 6, 8, 12), (2, 3, 4)):
            repeats = {"repeat_window": window, "repeat_times": times}
            ends = {
                step: (watch.end, watch.why)
                for step in range(1, len(chain) + 2)
                for watch, _ in [watched(chain, step, agreements, **repeats, **settings)]
            }
            assert set(ends.values()) == {ends[1]}, (chain, repeats, ends)
            whys.add(ends[1][1])
    assert Why.REPEATS in whys and len(whys) > 1


@pytest.mark.parametrize("step", [1, 3, 5, 100])
def test_an_agreement_that_is_known_before_a_repeat_ends_the_chain_behind_where_that_begins(step):
    watch, _ = watched(CHAIN, step, agreements=2, repeat_window=8, repeat_times=4)
    assert (watch.end, watch.why) == (ENDS[4], Why.AGREEMENT) == (38, Why.AGREEMENT)
    watch, _ = watched(CHAIN, step, agreements=9, repeat_window=8, repeat_times=4)
    assert (watch.end, watch.why) == (37, Why.REPEATS)


@pytest.mark.parametrize(("is_over", "why"), [(True, Why.ITSELF), (False, Why.BUDGET)])
def test_a_chain_that_ends_with_its_budget_ends_by_itself(is_over, why):
    watch = Watch("?", TrimRules(9, 1000, TrimConfig(cue_after="line", budget_share=0.02)), read)
    watch.grow([ord(sign) for sign in CHAIN[:20]], is_over)
    assert watch.why is why


def test_a_segment_is_asked_about_once_and_only_when_it_is_over():
    for step in (1, 4, 100):
        _, asked = watched(CHAIN, step, agreements=99)
        assert asked == list(zip([0, *STARTS], STARTS, strict=False))  # not the last one


def test_nothing_is_asked_after_the_end():
    _, asked = watched(CHAIN, 1, agreements=1)
    assert asked[-1][1] == STARTS[3]


def test_the_end_is_at_a_token_where_a_word_begins_with_its_space():
    """As in byte-level vocabularies, whose token " Wait" has the space: it belongs to the reflection."""
    words = ["7", ".", "\n", " Wait", ",", " 7", ".", "\n", " Wait", ","]
    watch = Watch("?", TrimRules(1, 100, TrimConfig(cue_after="line")), lambda ids: "".join(words[i] for i in ids))
    (first, second) = watch.grow(range(10))
    assert (first.stop, second.start, second.stop) == (3, 3, 8) and (first.end, second.end) == (2, 7)
    assert first.ending == "7." and second.ending == "Wait, 7."


PIECES = (
    *(b"7.", b"\n", b"Wait", b", 8", b".", b" no", b"?", b" Wait"),
    *(b"\nWait", b".\nWait"),  # the end of a segment and the beginning of the next
    *(b"\xc3", b"\xa9"),  # half an "\u00e9" each: "Wait\u00e9" is another word
)


def test_a_segment_is_the_same_whatever_its_tokens_hold_and_however_often_one_looks():
    def read_pieces(ids):
        return b"".join(PIECES[i] for i in ids).decode(errors="replace")

    def segments(ids, step):
        watch = Watch("?", TrimRules(99, 1000, TrimConfig(cue_after="line")), read_pieces)
        return [segment for size in range(step, len(ids) + step, step) for segment in watch.grow(ids[:size])]

    for seed in range(100):
        ids = random.Random(seed).choices(range(len(PIECES)), k=30)
        assert all(segments(ids, step) == segments(ids, 1) for step in (2, 3, 5, 30)), [PIECES[i] for i in ids]


def test_repeats_that_overlap_count_once():
    assert RollingHash(2, 3).first_repeat([5] * 5) is None
    assert RollingHash(2, 3).first_repeat([5] * 6) == 4
    assert RollingHash(3, 2).first_repeat([1, 2, 3, 9, 1, 2, 3]) == 4
    assert RollingHash(3, 2).first_repeat([1, 2, 3, 9, 1, 3, 2]) is None
    assert RollingHash(0, 2).first_repeat([1] * 50) is None
    growing = RollingHash(3, 2)
    assert growing.first_repeat([1, 2]) is None and growing.first_repeat([1, 2, 3, 1, 2]) is None
    assert growing.first_repeat([1, 2, 3, 1, 2, 3]) == 3

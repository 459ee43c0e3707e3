"""What a latent of a step should say: shares of its numbers and signs, by rule."""

import functools
from pathlib import Path

import numpy as np
import pytest
from golden.authors.case import of_variant

from colar_jax.data.arithmetic import generate_problems
from colar_jax.data.encoding import encode
from colar_jax.data.graphs import generate_graph_problems
from colar_jax.data.problems import Problem
from colar_jax.data.step_targets import STEP_RULES, step_shares
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "tokenizers"
LLAMA = str(SHARED / "llama3")
needs_llama = pytest.mark.skipif(not Path(LLAMA).is_dir(), reason="the real tokenizers lie in ../shared/tokenizers")


read = functools.cache(load_tokenizer)


def shares_of(steps: tuple[str, ...], rule: str, name: str = LLAMA) -> list[dict[str, float]]:
    tokenizer = read(name)
    encoded = encode([Problem("How many?", steps, "7")], tokenizer, ("auto",))
    found = []
    for ids, shares in step_shares(encoded, 0, rule):
        assert len(set(ids.tolist())) == len(ids)  # a token that stands twice has one share
        found.append({tokenizer.token_text(int(i)).strip(): float(s) for i, s in zip(ids, shares, strict=True)})
    return found


@needs_llama
def test_the_mix_of_a_step():
    (shares,) = shares_of(("<<16-3-4=9>>",), "mix")
    assert shares.keys() == {"16", "-", "3", "4", "=", "9"}  # no bracket
    assert shares["9"] == pytest.approx(0.2 / 6 + 0.8)
    assert all(shares[key] == pytest.approx(0.2 / 6) for key in shares.keys() - {"9"})


@needs_llama
def test_the_scores_of_a_step():
    (shares,) = shares_of(("<<16-3-4=9>>",), "temp")
    weights = np.exp(np.array([2.8, 2.0]) / 0.5)
    assert shares["9"] / shares["3"] == pytest.approx(weights[0] / weights[1])
    (uniform,) = shares_of(("<<16-3-4=9>>",), "uniform")
    assert all(share == pytest.approx(1 / 6) for share in uniform.values())


@needs_llama
@pytest.mark.parametrize(
    ("step", "result"),
    [
        ("<<2*3=6>>", {"6"}),
        ("He has 2*3 = 6 apples left over", {"6"}),
        ("<<5=5>>", {"5"}),
        ("<<1/4=0.25>>", {"0", ".", "25"}),
        ("<<1234*10=12340>>", {"123", "40"}),
        ("x = y", set()),
        ("no number at all", None),
        ("no number here.", None),
    ],
)
def test_what_the_result_of_a_step_is(step, result):
    (shares,) = shares_of((step,), "mix")
    likely = {key for key, share in shares.items() if share > 0.2}
    if result is None:  # all its tokens, alike
        assert len({round(share, 6) for share in shares.values()}) == 1 and len(shares) == 4
    elif result:
        assert likely == result
    else:
        assert shares == {"=": 1.0}


@needs_llama
def test_a_full_stop_is_no_part_of_a_number():
    """It would be all that a latent of a sentence without numbers says."""
    (shares,) = shares_of(("He has .5 of 3 is 1.5.",), "uniform")
    assert shares.keys() == {".", "5", "3", "1"}  # the points of .5 and 1.5


def test_latents_of_sentences_say_their_words():
    """Steps of made-up graphs: every latent would have said the full stop, and nothing else."""
    problems = generate_graph_problems("train", 20)
    encoded = encode(problems, read("embedded:graphs"), ("auto",))
    for example in range(len(problems)):
        for (ids, shares), start, stop in zip(
            step_shares(encoded, example, "mix"), encoded.step_starts[example], encoded.step_ends[example], strict=True
        ):
            assert set(ids.tolist()) == set(encoded.steps[example][start:stop].tolist()) and len(ids) > 3
            np.testing.assert_allclose(shares, 1 / len(ids), rtol=1e-6)


@pytest.mark.parametrize("rule", STEP_RULES)
def test_shares_sum_to_one_over_tokens_of_their_step(rule):
    encoded = encode(generate_problems("train", 30), load_tokenizer(EMBEDDED), ("auto",))
    for example, problem in enumerate(encoded.problems):
        found = step_shares(encoded, example, rule)
        assert len(found) == len(problem.steps)
        for (ids, shares), start, stop in zip(
            found, encoded.step_starts[example], encoded.step_ends[example], strict=True
        ):
            assert shares.sum() == pytest.approx(1, abs=1e-6)
            assert set(ids.tolist()) <= set(encoded.steps[example][start:stop].tolist())


@pytest.mark.parametrize("rule", ["mix", "temp"])
def test_shares_are_those_of_the_authors_rules(rule):
    """Theirs are in bfloat16 (golden/README.md); a token that stands in a step twice is another matter."""
    recorded = of_variant("mixtures", "rules")
    for number, step in enumerate(recorded["steps"].tolist()):
        (shares,) = shares_of((step,), rule, EMBEDDED)
        theirs = dict(zip(recorded[f"{number}/words"].tolist(), recorded[f"{number}/{rule}"].tolist(), strict=True))
        assert shares == pytest.approx(theirs, rel=1e-2)

"""Are the latents used? Change them, let the model answer, and compare its accuracy.

A chain is decoded once; then its latents are fed again, changed, and the answer is decoded after them. `shuffle` brings
the other chain's number of latents, `truncate` halves it; nothing else differs, but for two kinds of methods:

- Where a method always thinks as many, an answer after fewer would stand where training never had one, and be wrong for
  that alone. The second half is zeroed there (`zero_half`), and nothing moves.
- Where the model chooses its speed, `shuffle` also brings the speed that the other chain was thought at: the question
  is told it as if the model had chosen it, and latents stand and are told as they were. At another speed it would be a
  chain that no model thinks.

A model whose answers do not depend on its latents keeps its accuracy.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from colar_jax.data.encoding import EncodedProblems
from colar_jax.data.prompts import Speed, speed_text
from colar_jax.decoding.replay import FedThoughts
from colar_jax.errors import UserError
from colar_jax.evaluation.inspector import Inspector
from colar_jax.statistics.paired import NUM_RESAMPLES, fall_p_value, holm, paired_difference

Intervention = Callable[[FedThoughts, np.random.Generator], FedThoughts]


def _none(given: FedThoughts, rng) -> FedThoughts:
    return given


def _zero(given: FedThoughts, rng) -> FedThoughts:
    return dataclasses.replace(given, embeds_BLD=np.zeros_like(given.embeds_BLD))


def _shuffle(given: FedThoughts, rng) -> FedThoughts:
    """Every question gets the whole chain of another one, with the speed that the model chose for it."""
    order_N = rng.permutation(len(given.num_thoughts_B))
    donor_N = np.empty_like(order_N)
    donor_N[order_N] = np.roll(order_N, 1)  # one cycle through all: nobody keeps its own
    return jax.tree.map(lambda array_N: array_N[donor_N], given)


def _swap(given: FedThoughts, rng) -> FedThoughts:
    """Two latents of a chain, any two, change places; a chain of one stays as it is."""
    embeds_BLD = given.embeds_BLD.copy()
    for embeds_LD, count in zip(embeds_BLD, given.num_thoughts_B, strict=True):
        if count > 1:
            pair = rng.choice(count, size=2, replace=False)
            embeds_LD[pair] = embeds_LD[pair[::-1]]
    return dataclasses.replace(given, embeds_BLD=embeds_BLD)


def _truncate(given: FedThoughts, rng) -> FedThoughts:
    """The second half of a chain is left out (of an odd number, the larger half)."""
    return dataclasses.replace(given, num_thoughts_B=given.num_thoughts_B // 2)


def _zero_half(given: FedThoughts, rng) -> FedThoughts:
    """That half is zeroed instead: the answer stays where it is."""
    is_kept_BL = np.arange(given.embeds_BLD.shape[1]) < (given.num_thoughts_B // 2)[:, None]
    return dataclasses.replace(given, embeds_BLD=np.where(is_kept_BL[:, :, None], given.embeds_BLD, 0))


UNCHANGED = "none"
_OF_ANY: dict[str, Intervention] = {UNCHANGED: _none, "zero": _zero, "shuffle": _shuffle, "swap": _swap}
INTERVENTIONS = _OF_ANY | {"truncate": _truncate}
OF_A_FIXED_NUMBER = _OF_ANY | {"zero_half": _zero_half}  # of methods whose chains all have as many latents


def causal_tests(
    inspector: Inspector, parameters, encoded: EncodedProblems, speed: Speed, *, seed: int = 0, **facts
) -> list[dict]:
    """One row for each intervention on the chains of all problems at one speed, decoded greedily.

    Returns:
        Rows `{**facts, "speed", "intervention", "accuracy", "difference", "interval": [low, high], "p", "used"}`. The
        difference is to the unchanged chains, its 95 % interval from a paired bootstrap over the same questions
        (of a single question nothing is known: [-1, 1]); `p` is that of the sign test of a fall (None for the
        unchanged chains), and `used` says whether accuracy falls for certain: whether Holm's correction over all
        interventions rejects at 5 %. So the chance that any of them is called used where none is stays below 5 %.
        `used` is None where too few answers could fall: it would not be True if all of them did.

    Raises:
        UserError: the method does not think in latents.
    """
    if not inspector.thinks_in_latents:
        raise UserError("a causal test changes latents, and this method has none: choose a stage that thinks in them")
    given = inspector.thoughts(parameters, encoded, speed)
    right_of, changed_of = {}, {}
    interventions = OF_A_FIXED_NUMBER if inspector.num_is_fixed else INTERVENTIONS
    for number, (name, intervene) in enumerate(interventions.items()):
        fed = intervene(given, np.random.default_rng((seed, number)))
        right_of[name] = inspector.right_after(parameters, encoded, speed, fed)
        changed_of[name] = are_changed(given, fed)
    return [facts | {"speed": speed_text(speed)} | judged for judged in with_verdicts(right_of, changed_of)]


def are_changed(given: FedThoughts, fed: FedThoughts) -> np.ndarray:
    """Which chains an intervention changed, bool `[N]`: two latents of a chain of one cannot change places."""
    is_fed_BL = np.arange(given.embeds_BLD.shape[1]) < given.num_thoughts_B[:, None]
    is_other_BL = (given.embeds_BLD != fed.embeds_BLD).any(axis=2)
    are_changed_B = (given.num_thoughts_B != fed.num_thoughts_B) | (is_fed_BL & is_other_BL).any(axis=1)
    return are_changed_B if given.own_speeds_B is None else are_changed_B | (given.own_speeds_B != fed.own_speeds_B)


def with_verdicts(
    right_of: dict[str, np.ndarray],
    changed_of: dict[str, np.ndarray] | None = None,
    *,
    resamples: int = NUM_RESAMPLES,
) -> list[dict]:
    """What `causal_tests` says of each intervention, from which questions were right after it; "none" is the first.

    Args:
        right_of: by intervention, bool `[N]`.
        changed_of: which chains it changed, bool `[N]`: only their answers can fall. None: all.
    """
    unchanged_N = right_of[UNCHANGED]
    tested = [name for name in right_of if name != UNCHANGED]
    p_values = {name: fall_p_value(right_of[name], unchanged_N) for name in tested}
    # The smallest that there could have been: every changed chain's answer is wrong.
    smallest = [
        fall_p_value(np.zeros_like(unchanged_N) if changed_of is None else unchanged_N & ~changed_of[name], unchanged_N)
        for name in tested
    ]
    verdicts = zip(tested, holm(list(p_values.values())), holm(smallest), strict=True)
    used = {name: falls if could_fall else None for name, falls, could_fall in verdicts}
    rows = []
    for name, right_N in right_of.items():
        difference = paired_difference(right_N, unchanged_N, resamples=resamples)
        low, high = (-1.0, 1.0) if difference.low is None else (difference.low, difference.high)
        rows.append(
            {
                "intervention": name,
                "accuracy": float(np.mean(right_N)),
                "difference": difference.center,
                "interval": [low, high],
                "p": p_values.get(name),
                "used": used.get(name, False),
            }
        )
    return rows


def are_used(rows: Sequence[dict]) -> bool:
    """Whether any change to the latents lowers accuracy for certain: the verdict over the rows of one speed.

    The rows are corrected for being several tests, so this is wrong for unused latents at most 5 times in 100. False
    does not say that they are not used: only that these questions do not show it.
    """
    return any(row["used"] is True for row in rows)

"""Embedded problems of another kind than arithmetic: paths in made-up graphs, in the form of ProsQA (arXiv 2412.06769).

    Every dax is a wug. Tom is a fep. Every fep is a dax. Ann is a gorp. Every gorp is a zib. Is Tom a wug or zib?
    Tom is a fep.  Every fep is a dax.  Every dax is a wug.    Tom is a wug.

One of two kinds can be reached from the person who is asked about, the other from another person only. To know which
one has to search: whether a step leads there shows only later. The chain is the shortest path, and no other is as
short. Graphs and words are drawn anew for each problem, so nothing can be learned by heart. What a problem *is* is its
graph with its words, and that alone decides which split it belongs to.
"""

import collections
import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator

from colar_jax.data.problems import Problem
from colar_jax.errors import UserError

PEOPLE = ("Ann", "Ben", "Eva", "Max", "Mia", "Sam", "Tom", "Zoe")
# Made-up words for kinds. None is a word, or a part of ProsQA's own.
KIND_WORDS = (
    "blick", "borf", "cleb", "dax", "dorb", "fazzle", "fep", "flim", "gorp", "grell", "hask", "jorn", "kiv", "lorp",
    "mib", "nurg", "ploz", "quav", "rask", "slen", "spok", "tace", "tem", "vask", "wug", "yalp", "zib", "zorn",
)  # fmt: skip

OF_PERSON, OF_KIND = "{} is a {}.", "Every {} is a {}."
QUESTION = "Is {} a {} or {}?"

# Of four graphs one is for validation and one for testing; the hash of a graph says which.
GRAPH_SPLITS = ("train", "train", "val", "test")

# Draws of one more fact that would lead somewhere it must not, before a graph is left with fewer.
_MAX_FAILURES = 100
# Graphs in a row that are known already, or of another split: then there are no more.
_MOST_REPEATS = 10_000

# From one node to another: a person (the first two) or a kind, by number.
Facts = frozenset[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class GraphKind:
    """What graphs are drawn from.

    Attributes:
        min_depth, max_depth: the chain has a number of steps between the two, all equally likely.
        num_kinds: how many kinds a problem names; those on neither path are branches that lead nowhere.
        num_facts: how many sentences a problem has before its question, at most.
    """

    min_depth: int = 3
    max_depth: int = 5
    num_kinds: int = 14
    num_facts: int = 20

    def __post_init__(self):
        if not 1 <= self.min_depth <= self.max_depth:
            raise UserError(f"graphs with {self}: 1 <= min_depth <= max_depth is needed")
        if not 2 * self.max_depth <= self.num_kinds <= len(KIND_WORDS):
            raise UserError(
                f"graphs with {self}: num_kinds must be between {2 * self.max_depth} (two paths of max_depth) and "
                f"{len(KIND_WORDS)} (all words that there are)"
            )
        if self.num_facts < self.num_kinds:
            raise UserError(f"graphs with {self}: num_facts must be at least num_kinds, as each kind has to be named")

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(self).items())


def generate_graph_problems(split: str, count: int, *, seed: int = 0, **kind: int) -> list[Problem]:
    """The first `count` problems of a split, no graph twice; the same ones on every machine.

    A longer list begins with the shorter one.

    Args:
        split: "train", "val" or "test". No graph is in two of them.
        count: how many.
        seed: another seed gives another list from the same split.
        kind: fields of `GraphKind`.

    Raises:
        UserError: an argument is out of range, or the split has fewer than `count` different graphs.
    """
    settings = GraphKind(**kind)
    if split not in GRAPH_SPLITS:
        raise UserError(f"graphs has no split {split!r}: name 'train', 'val' or 'test'")
    if count < 1:
        raise UserError(f"graphs cannot make count={count} problems: ask for at least 1")
    rng = random.Random(f"graphs/{split}/{seed}/{settings}")
    seen: set[str] = set()
    problems: list[Problem] = []
    failures = 0
    while len(problems) < count:
        if failures == _MOST_REPEATS:
            raise UserError(
                f"graphs with {settings} has no count={count} different problems for {split!r}, only about "
                f"{len(problems)}: lower count, or raise num_kinds or max_depth"
            )
        depth = rng.randint(settings.min_depth, settings.max_depth)
        facts = _draw_facts(rng, depth, settings)
        words = (*rng.sample(PEOPLE, 2), *rng.sample(KIND_WORDS, settings.num_kinds))
        named = _key(facts, words)
        if named in seen or _split_of(named) != split:
            failures += 1
            continue
        failures = 0
        seen.add(named)
        problems.append(_tell_graph(rng, facts, depth, words))
    return problems


def graph_vocabulary() -> tuple[str, ...]:
    """All words of the problems, sorted."""
    templates = (OF_PERSON, OF_KIND, QUESTION)
    words = {word.strip(".?") for template in templates for word in template.split() if "{" not in word}
    return tuple(sorted({*words, *PEOPLE, *KIND_WORDS}))


def _draw_facts(rng: random.Random, depth: int, settings: GraphKind) -> Facts:
    """A graph of two people, 0 and 1, and kinds from 2 on: one's path to kind `depth + 1`, the other's, and branches.

    Person 0 reaches the end of the own path in `depth` steps, in no other way as short, and never the other's end; nor
    does 1 reach that of 0.
    """
    first = [0, *range(2, 2 + depth)]
    second = [1, *range(2 + depth, 2 + 2 * depth)]
    facts = {*itertools.pairwise(first), *itertools.pairwise(second)}
    nodes = _merged(rng, first, second)  # facts lead from earlier nodes to later ones, so that there is no circle
    for kind in range(2 + 2 * depth, 2 + settings.num_kinds):
        place = rng.randint(1, len(nodes))
        facts.add((rng.choice(nodes[:place]), kind))
        nodes.insert(place, kind)
    ends = (first[-1], second[-1])
    while len(facts) < settings.num_facts:
        distances = _Distances(facts, ends)
        for _ in range(_MAX_FAILURES):
            one, other = sorted(rng.sample(range(len(nodes)), 2))
            fact = (nodes[one], nodes[other])
            if fact[1] >= 2 and fact not in facts and not distances.leads_astray(fact, depth):
                facts.add(fact)
                break
        else:
            break
    return frozenset(facts)


def _merged(rng: random.Random, first: list[int], second: list[int]) -> list[int]:
    """Both lists as one, each in its order."""
    places = sorted(rng.sample(range(len(first) + len(second)), len(first)))
    merged = list(second)
    for place, node in zip(places, first, strict=True):
        merged.insert(place, node)
    return merged


class _Distances:
    """How far everything is from the two people, and from the ends of their paths."""

    def __init__(self, facts: set[tuple[int, int]], ends: tuple[int, int]):
        backwards = {(other, one) for one, other in facts}
        self._from_person = [_distances(facts, person) for person in (0, 1)]
        self._to_end = [_distances(backwards, end) for end in ends]

    def leads_astray(self, fact: tuple[int, int], depth: int) -> bool:
        """Whether it would join a person with the other's end, or with their own in another way as short."""
        one, other = fact
        for person, from_person in enumerate(self._from_person):
            if one not in from_person:
                continue
            if other in self._to_end[1 - person]:
                return True
            to_own = self._to_end[person]
            if other in to_own and from_person[one] + 1 + to_own[other] <= depth:
                return True
        return False


def _distances(facts: set[tuple[int, int]], start: int) -> dict[int, int]:
    """The nodes that can be reached from one, each with the number of steps at least."""
    after = collections.defaultdict(list)
    for one, other in facts:
        after[one].append(other)
    found, level = {start: 0}, [start]
    for steps in range(1, len(after) + 1):
        level = list({other for node in level for other in after[node]} - found.keys())
        found |= dict.fromkeys(level, steps)
    return found


def _key(facts: Facts, words: tuple[str, ...]) -> str:
    """The sentences of a graph in an order of their own."""
    return " ".join(sorted(_sentences(facts, words)))


def _sentences(facts: Facts, words: tuple[str, ...]) -> Iterator[str]:
    return (_sentence(fact, words) for fact in sorted(facts))


def _sentence(fact: tuple[int, int], words: tuple[str, ...]) -> str:
    one, other = fact
    return (OF_PERSON if one < 2 else OF_KIND).format(words[one], words[other])


def _split_of(named: str) -> str:
    digest = hashlib.blake2b(named.encode(), digest_size=8).digest()
    return GRAPH_SPLITS[int.from_bytes(digest, "big") % len(GRAPH_SPLITS)]


def _tell_graph(rng: random.Random, facts: Facts, depth: int, words: tuple[str, ...]) -> Problem:
    sentences = list(_sentences(facts, words))
    rng.shuffle(sentences)
    ends = [words[1 + depth], words[1 + 2 * depth]]
    answer = OF_PERSON.format(words[0], ends[0])
    rng.shuffle(ends)
    path = [0, *range(2, 2 + depth)]
    steps = tuple(_sentence(fact, words) for fact in itertools.pairwise(path))
    return Problem(" ".join([*sentences, QUESTION.format(words[0], *ends)]), steps, answer)

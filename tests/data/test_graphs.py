"""Paths in made-up graphs: that the chain is the one shortest path, that it has to be looked for, and ProsQA's form."""

import collections
import itertools
import re
from pathlib import Path

import pytest

from colar_jax.data import graphs
from colar_jax.data.encoding import encode
from colar_jax.data.graphs import KIND_WORDS, PEOPLE, generate_graph_problems, graph_vocabulary
from colar_jax.data.problems import Problem
from colar_jax.data.sources import load_problems
from colar_jax.data.splits import parse_tests
from colar_jax.data.tokenizers import load_tokenizer
from colar_jax.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the real files lie in ../shared/data")

FACT = re.compile(r"(?:Every (?P<kind>\w+)|(?P<person>[A-Z]\w+)) is an? (?P<what>\w+)\.")
QUESTION = re.compile(r"Is (?P<person>[A-Z]\w+) an? (?P<one>\w+) or (?:an? )?(?P<other>\w+)\?")


def read(problem: Problem) -> tuple[dict[str, set[str]], str, set[str]]:
    """What is what, who is asked about, and the two kinds to choose from."""
    *sentences, question = re.findall(r"[^.?]+[.?]", problem.question)
    after = collections.defaultdict(set)
    for sentence in sentences:
        fact = FACT.fullmatch(sentence.strip())
        after[fact["kind"] or fact["person"]].add(fact["what"])
    asked = QUESTION.fullmatch(question.strip())
    return after, asked["person"], {asked["one"], asked["other"]}


def paths(after, start: str, most: int) -> list[list[str]]:
    """All paths from a node of at most so many steps."""
    found, level = [[start]], [[start]]
    for _ in range(most):
        level = [[*path, node] for path in level for node in sorted(after.get(path[-1], ()))]
        found += level
    return found


def chain_of(problem: Problem) -> list[str]:
    """The nodes of the chain that the steps tell."""
    facts = [FACT.fullmatch(step.strip()) for step in problem.steps]
    starts = [fact["kind"] or fact["person"] for fact in facts]
    assert starts[1:] == [fact["what"] for fact in facts[:-1]], "each step goes on where the last one ended"
    return [*starts, facts[-1]["what"]]


@pytest.mark.parametrize("kind", [{}, dict(min_depth=1, max_depth=2, num_kinds=4, num_facts=5), dict(num_facts=28)])
def test_the_chain_is_the_only_shortest_path_and_the_other_kind_cannot_be_reached(kind):
    for problem in generate_graph_problems("train", 60, **kind):
        after, person, choices = read(problem)
        chain = chain_of(problem)
        ends = [path for path in paths(after, person, len(chain) - 1) if path[-1] == chain[-1]]
        assert ends == [chain] and chain[0] == person
        reached = (
            {path[-1] for path in paths(after, person, len(KIND_WORDS))} if len(after) < 8 else _closure(after, person)
        )
        (wrong,) = choices - {chain[-1]}
        assert wrong not in reached and problem.answer == f"{person} is a {chain[-1]}."
        (other,) = {name for name in after if name in PEOPLE} - {person}
        assert wrong in _closure(after, other) and chain[-1] not in _closure(after, other)


def _closure(after, start: str) -> set[str]:
    found, new = {start}, {start}
    while new:
        new = {node for one in new for node in after.get(one, ())} - found
        found |= new
    return found


def test_depths_are_equally_likely_and_neither_place_nor_number_of_facts_gives_the_answer_away():
    problems = generate_graph_problems("train", 600)
    depths = collections.Counter(len(problem.steps) for problem in problems)
    assert set(depths) == {3, 4, 5} and min(depths.values()) > 150
    first = sum(problem.question.split()[-3] in problem.answer for problem in problems)
    assert 240 < first < 360, "the right one comes first as often as second"
    fewer = 0
    for problem in problems:
        after, _, choices = read(problem)
        said = collections.Counter(what for whats in after.values() for what in whats)
        right = problem.answer.split()[-1].strip(".")
        (wrong,) = choices - {right}
        fewer += (said[right] < said[wrong]) - (said[right] > said[wrong])
    assert abs(fewer) < 90, "neither is said more often"


def test_splits_share_no_problem_and_a_longer_list_begins_with_the_shorter():
    splits = {split: generate_graph_problems(split, 100) for split in ("train", "val", "test")}
    assert generate_graph_problems("val", 40) == splits["val"][:40]
    assert len({problem.question for problems in splits.values() for problem in problems}) == 300
    assert generate_graph_problems("train", 5, seed=1) != splits["train"][:5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(min_depth=0), "1 <= min_depth"),
        (dict(min_depth=4, max_depth=3), "1 <= min_depth"),
        (dict(num_kinds=9), "num_kinds must be between 10"),
        (dict(num_kinds=99), "all words that there are"),
        (dict(num_facts=3), "num_facts must be at least"),
    ],
)
def test_what_cannot_be_is_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        generate_graph_problems("train", 1, **options)


def test_the_source_and_its_tokenizer():
    problems = load_problems("graphs:max_depth=4,num_facts=16", "test", limit=20)
    assert max(len(problem.steps) for problem in problems) == 4
    assert parse_tests("graphs:min_depth=2,max_depth=2") == {"graphs": "graphs:min_depth=2,max_depth=2"}
    assert list(parse_tests("deep=graphs:min_depth=5,max_depth=5,arithmetic:max_steps=4")) == ["deep", "arithmetic"]
    with pytest.raises(UserError, match="graphs has no option 'depth', only seed, min_depth"):
        load_problems("graphs:depth=4", "test", limit=1)
    tokenizer = load_tokenizer("embedded:graphs")
    encoded = encode(problems, tokenizer, (1.0, 2.5, "auto"))
    for index, problem in enumerate(problems):
        assert tokenizer.decode(encoded.steps[index].tolist()) == "\n".join(problem.steps)
        assert tokenizer.decode(encoded.answers[index].tolist()) == f"Answer:{problem.answer}"
        assert tokenizer.decode(encoded.heads[index].tolist()).startswith(f"Question: {problem.question}")
    assert set(graph_vocabulary()) >= {*PEOPLE, *KIND_WORDS, "Every", "is", "a", "or", "Is"}


@needs_shared
def test_prosqa_is_of_the_same_form():
    for problem in load_problems(str(SHARED / "prosqa"), "val"):
        after, person, choices = read(problem)
        chain = chain_of(problem)
        assert chain[0] == person and chain[-1] in choices and problem.answer == f"{person} is a {chain[-1]}."
        assert choices - {chain[-1]} and not (choices - {chain[-1]}) & _closure(after, person)
        assert all(there in after[here] for here, there in itertools.pairwise(chain))


def test_more_problems_than_there_are_graphs_is_one_line(monkeypatch):
    """It was a loop without end: of the smallest graphs there are some ten thousand."""
    monkeypatch.setattr(graphs, "PEOPLE", graphs.PEOPLE[:3])
    monkeypatch.setattr(graphs, "KIND_WORDS", graphs.KIND_WORDS[:3])
    smallest = dict(min_depth=1, max_depth=1, num_kinds=2, num_facts=2)
    with pytest.raises(
        UserError, match=r"has no count=200 different problems for 'train', only about \d+: lower count"
    ):
        generate_graph_problems("train", 200, **smallest)
    assert generate_graph_problems("train", 3, **smallest)

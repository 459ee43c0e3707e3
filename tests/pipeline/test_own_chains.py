"""Which of its own chains a stage learns, of rollouts that are written down here."""

import types

import numpy as np

from colar_jax.data.problems import Problem
from colar_jax.data.tokenizers import EMBEDDED, load_tokenizer
from colar_jax.decoding.decoder import Decoded
from colar_jax.evaluation.judge import Judge
from colar_jax.methods.shorter_chains import Concise
from colar_jax.runs.own_chains import _shortest_of

TOKENIZER = load_tokenizer(EMBEDDED)
LONG, SHORT, SHORTER = "<<1+1=2>>\n<<2+1=3>>", "<<1+2=3>>", "1+2"
# Of each problem its answer, and what three rollouts thought and answered, and whether they were cut.
ROLLOUTS = {
    "the shortest of the right ones": ("3", [(LONG, "3", False), (SHORT, "3", False), (SHORTER, "4", False)]),
    "none is right": ("5", [(LONG, "3", False), (SHORT, "3", False), (SHORTER, "", False)]),
    "a cut one does not count": ("3", [(SHORTER, "3", True), (SHORT, "2", False), (LONG, "3", False)]),
    "the only right one is cut": ("4", [(SHORT, "3", False), (SHORTER, "4", True), (LONG, "3", False)]),
    "the last, and nothing is thought": ("3", [(LONG, "3", False), (SHORT, "3", False), ("", "3", False)]),
}


def padded(texts: list[list[int]], other: int) -> np.ndarray:
    """Rows of ids; what comes after a row's end is meaningless."""
    rows = np.full((len(texts), max(map(len, texts)) + 2), other, np.int32)
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids)] = ids
    return rows


def test_the_shortest_right_chain_of_a_problem_that_was_not_cut():
    flat = [rollout for _, of_problem in ROLLOUTS.values() for rollout in of_problem]
    thoughts = [TOKENIZER.encode(chain) for chain, _, _ in flat]
    answers = [[*TOKENIZER.encode(f"Answer:{answer}"), TOKENIZER.eos_id] for _, answer, _ in flat]
    of_rollouts = dict.fromkeys(("thought_log_probs_BL", "stop_log_probs_BL", "answer_log_probs_BA"))
    decoded = Decoded(
        thoughts=padded(thoughts, TOKENIZER.encode("7")[0]),
        num_thoughts_B=np.array(list(map(len, thoughts))),
        forced_stop_B=np.array([cut for _, _, cut in flat]),
        answer_ids_BA=padded(answers, TOKENIZER.encode("7")[0]),
        num_answer_tokens_B=np.array(list(map(len, answers))),
        **of_rollouts,
    )
    problems = [Problem(name, ("<<of=the data>>",), answer) for name, (answer, _) in ROLLOUTS.items()]
    run = types.SimpleNamespace(judge=Judge(TOKENIZER), tokenizer=TOKENIZER)
    learned = {problem.question: problem for problem in _shortest_of(run, Concise(num_chains=3), problems, decoded)}
    assert {name: problem.steps for name, problem in learned.items()} == {
        "the shortest of the right ones": (SHORT,),
        "a cut one does not count": tuple(LONG.split("\n")),
        "the last, and nothing is thought": (),
    }
    assert all(problem.answer == "3" for problem in learned.values())

"""Which questions an iteration asks: all of them, one after the other, in a new order each time through."""

import numpy as np


class QuestionStream:
    """Draws questions without end; `memory` and `recall` hand its position on to a run that goes on from here.

    Args:
        num_questions: how many there are; they are known by their numbers.
        skip_solved: whether questions told to be `solved` are left out of later rounds. When too few are left for one
            draw, all come again.
    """

    def __init__(self, num_questions: int, seed: int, *, skip_solved: bool = False):
        self._num_questions, self._seed, self._skip_solved = num_questions, seed, skip_solved
        self._position = 0
        self._solved: set[int] = set()

    def draw(self, count: int) -> np.ndarray:
        """The next `count` questions; none twice within a round."""
        if self._num_questions - len(self._solved) < count:
            self._solved.clear()
        drawn: list[int] = []
        while len(drawn) < count:
            number, index = divmod(self._position, self._num_questions)
            # The order of a round is computed again at each draw: it is cheap, and no state has to be kept.
            order = np.random.default_rng((self._seed, number)).permutation(self._num_questions)
            for question in order[index:].tolist():
                self._position += 1
                if question not in self._solved:
                    drawn.append(question)
                if len(drawn) == count:
                    break
        return np.array(drawn)

    def solved(self, questions: np.ndarray) -> None:
        """These were too easy."""
        if self._skip_solved:
            self._solved.update(questions.tolist())

    @property
    def num_solved(self) -> int:
        """How many questions are left out now."""
        return len(self._solved)

    def memory(self) -> dict:
        """JSON that `recall` takes."""
        return {"position": self._position, "solved": sorted(self._solved)}

    def recall(self, memory: dict) -> None:
        """Go on from what `memory` returned."""
        self._position, self._solved = memory["position"], set(memory["solved"])

"""Steps such as `<<16-3-4=9>>`: found in worked solutions, read exactly, and written again with other numbers."""

import ast
import dataclasses
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from colar_jax.data.problems import Problem

_MARK = re.compile(r"<<[^<>]*>>")
_STEP = re.compile(r"<<([\d.+\-*/() ]+)=(-?\d*\.?\d+)>>")
_LITERAL = re.compile(r"\d+\.?\d*|\.\d+")
_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclasses.dataclass(frozen=True)
class Equation:
    """The two sides of a step.

    Attributes:
        between: the text around the numbers of the left side, one piece more than there are numbers.
        literals: those numbers as they are written.
        result: the right side as it is written.
    """

    between: tuple[str, ...]
    literals: tuple[str, ...]
    result: str

    @property
    def left(self) -> str:
        """The left side as it is written."""
        return self.with_literals(self.literals)

    def with_literals(self, literals: Sequence[str]) -> str:
        """The left side with other numbers."""
        parts = [self.between[0]]
        for literal, after in zip(literals, self.between[1:], strict=True):
            parts += [literal, after]
        return "".join(parts)


def equations_alone(problem: Problem) -> Problem:
    """A problem whose steps are the marks `<<...>>` of its worked solution, without the words around them.

    So GSM8K becomes the very text that iCoT's authors made of it, before they augmented it (their
    `math_scaffolding_formula`): a step a mark, and no step where a solution has none.
    """
    return dataclasses.replace(problem, steps=tuple(mark for step in problem.steps for mark in _MARK.findall(step)))


def parse_step(step: str) -> Equation | None:
    """A step as an equation; None for one that is none, or of which one side is not the other."""
    match = _STEP.fullmatch(step.strip())
    if match is None:
        return None
    equation = Equation(tuple(_LITERAL.split(match[1])), tuple(_LITERAL.findall(match[1])), match[2])
    return equation if worked_out(equation.left) == Fraction(equation.result) else None


def worked_out(expression: str) -> Fraction | None:
    """What an expression of numbers, + - * / and brackets comes to, exactly.

    None where it cannot be read, divides by zero, or has a part that is not positive: nobody counts below zero.
    """
    try:
        # A number such as 05 is none in Python.
        tree = ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", expression).strip(), mode="eval")
        return _value(tree.body, expression)
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError):
        return None


def _value(node: ast.expr, expression: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_value(node.left, expression), _value(node.right, expression))
        if value > 0:
            return value
    raise ValueError(f"{expression!r} is no calculation with positive numbers")

"""The embedded problems: made on the spot, any number of them, by a generator that is known by name."""

import dataclasses
import re
from collections.abc import Callable

from colar_jax.data.arithmetic import ChainKind, generate_problems
from colar_jax.data.graphs import GraphKind, generate_graph_problems
from colar_jax.data.problems import Problem
from colar_jax.errors import UserError
from colar_jax.settings import nearest


@dataclasses.dataclass(frozen=True)
class Generator:
    """Makes problems of one kind.

    Attributes:
        make: (split, count, **options) -> problems.
        options: the options' names; all are whole numbers.
    """

    make: Callable[..., list[Problem]]
    options: tuple[str, ...]


def _options(kind: type) -> tuple[str, ...]:
    return ("seed", *(field.name for field in dataclasses.fields(kind)))


GENERATORS = {
    "arithmetic": Generator(generate_problems, _options(ChainKind)),
    "graphs": Generator(generate_graph_problems, _options(GraphKind)),
}
# A source of `data.test` that is a generator's, with or without options.
GENERATED = re.compile(rf"({'|'.join(GENERATORS)})(?:$|:)")


def generated(name: str, rest: str, split: str, limit: int | None, options: dict[str, int]) -> list[Problem]:
    """The first `limit` problems of a generator's split; options in the text `rest`, "a=1,b=2", win.

    Raises:
        UserError: there is no limit, or an option is none of the generator's or no whole number.
    """
    generator = GENERATORS[name]
    if limit is None:
        setting = "data.num_test" if split == "test" else "data.train_limit"
        raise UserError(f"data source {name!r} makes any number of problems: {setting} must say how many")
    options = options | dict(_parse_option(name, text) for text in rest.split(",") if text)
    for option in options:
        if option not in generator.options:
            known = ", ".join(generator.options)
            hint = nearest(option, generator.options)
            raise UserError(f"{name} has no option {option!r}, only {known}.{hint}")
    return generator.make(split, limit, **options)


def _parse_option(generator: str, text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), int(value)
    except ValueError:
        raise UserError(f"{generator} option {text!r} is not of the form name=integer") from None

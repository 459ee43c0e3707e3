"""Reason silently, in compressed latent steps: CoLaR (arXiv 2505.16552) in JAX.

    model = colar_jax.load("runs/arithmetic")
    print(model.generate("Eva has 10 apples. Each becomes 2. She gives away 6. She buys 3 more. How many apples now?"))

`load` returns a `Thinker`: `generate`, `stream`, `evaluate`. docs/python_api.md is for users.
"""

import importlib
import os
import typing

from colar_jax.freed_memory import share_one_heap

__version__ = "0.1.0"

share_one_heap()  # before jax starts a thread, and so here

# Of transformers only the tokenizers are used; on import it would warn that PyTorch is missing.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

if typing.TYPE_CHECKING:
    from colar_jax.data.problems import Problem
    from colar_jax.errors import UserError
    from colar_jax.evaluation.latents import Latent
    from colar_jax.thinker.answer import Answer, Done, Token
    from colar_jax.thinker.opening import load
    from colar_jax.thinker.thinker import Thinker

__all__ = ["Answer", "Done", "Latent", "Problem", "Thinker", "Token", "UserError", "__version__", "load"]

# Each is imported when it is first asked for: a command sets what jax reads of the environment before jax is imported.
_HOMES = {
    "Answer": "thinker.answer",
    "Done": "thinker.answer",
    "Latent": "evaluation.latents",
    "Problem": "data.problems",
    "Thinker": "thinker.thinker",
    "Token": "thinker.answer",
    "UserError": "errors",
    "load": "thinker.opening",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

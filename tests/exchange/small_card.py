"""The page of an exported folder, of no run."""

from colar_jax.data.example_questions import EXAMPLE
from colar_jax.exchange.model_card import HowAsked, model_card


def small_card(
    *, base: str = "", report: str = "", thinks_in_torch: bool = True, question: str = EXAMPLE.question
) -> str:
    """Of a stage `colar` that was trained at speed 2."""
    config = {"title": "t", "model": {"base": base}}
    asked = HowAsked(question, ("2",), thinks_in_torch)
    return model_card(stage="colar", thinks="", asked=asked, is_adapter=False, report=report, config=config)

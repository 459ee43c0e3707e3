"""The page of an exported folder, of no run."""

from colar_jax.exchange.model_card import model_card


def small_card(*, base: str = "", report: str = "") -> str:
    """Of a stage `colar` that was trained at speed 2."""
    config = {"title": "t", "model": {"base": base}}
    return model_card(stage="colar", thinks="", speeds=("2",), is_adapter=False, report=report, config=config)

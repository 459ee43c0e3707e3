"""The page of an exported folder, of no run."""

from colar_jax.exchange.model_card import model_card


def small_card(*, base: str = "", report: str = "", thinks_in_torch: bool = True) -> str:
    """Of a stage `colar` that was trained at speed 2."""
    config = {"title": "t", "model": {"base": base}}
    options = {"thinks_in_torch": thinks_in_torch, "is_adapter": False}
    return model_card(stage="colar", thinks="", speeds=("2",), report=report, config=config, **options)

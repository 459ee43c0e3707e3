"""Answer only: the answer follows the question at once. The floor that every way of reasoning has to beat."""

from colar_jax.data.loader import Recipe
from colar_jax.data.prompts import AUTO_SPEED
from colar_jax.decoding.thinking import word_thinker
from colar_jax.methods.method import Method, Thinking, language_objective


def _thinking(decode, separator_id, dtype, greedy):
    think = word_thinker(separator_id, dtype, greedy=greedy, temperature=decode.stop_temperature, top_p=decode.top_p)
    return Thinking(think, max_thoughts=0, in_words=True)


NO_COT = Method(
    recipe=lambda stage: Recipe(speeds=(1.0,), keeps_steps=False, prompt_speed=AUTO_SPEED),
    objective=language_objective,
    thinking=_thinking,
    trains_latent_head=False,
)

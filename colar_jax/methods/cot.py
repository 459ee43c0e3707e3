"""Chain of thought: the steps as words, one token a position. Every other method starts from its checkpoint."""

from colar_jax.data.loader import Recipe
from colar_jax.decoding.thinking import word_thinker
from colar_jax.methods.method import Method, Thinking, language_objective


def _thinking(decode, separator_id, dtype, greedy):
    think = word_thinker(separator_id, dtype, greedy=greedy, temperature=decode.stop_temperature, top_p=decode.top_p)
    return Thinking(think, max_thoughts=decode.max_step_tokens, in_words=True)


COT = Method(
    # The prompt of words says speed 1, as published: it is CoLaR's c = 1 without the latents.
    recipe=lambda stage: Recipe(speeds=(1.0,)),
    objective=language_objective,
    thinking=_thinking,
    trains_latent_head=False,
)

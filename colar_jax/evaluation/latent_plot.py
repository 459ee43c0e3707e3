"""A chain of latents as a heat map: latents down, words across, the cosine of the two as colour."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from colar_jax.evaluation.latents import Latent


def draw_latents(axes: Axes, latents: Sequence[Latent], gold: Sequence[str] = ()) -> None:
    """Draw the words nearest to each latent; blank where a word is not among a latent's nearest.

    Args:
        latents: of one chain, at least one.
        gold: what each latent should say, to stand beside it.
    """
    words = list(dict.fromkeys(word.label for latent in latents for word in latent.words))
    cosines_LW = np.full((len(latents), len(words)), np.nan)
    for row, latent in enumerate(latents):
        for word in latent.words:
            cosines_LW[row, words.index(word.label)] = word.score
    image = axes.imshow(cosines_LW, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(words)), words, rotation=90)
    beside = [f"{place + 1}   {text}" for place, text in enumerate([*gold, *[""] * len(latents)][: len(latents)])]
    axes.set_yticks(range(len(latents)), beside)
    axes.set_xlabel("nearest words")
    axes.set_ylabel("latent, and the gold group in its place" if gold else "latent")
    axes.figure.colorbar(image, ax=axes, label="cosine")

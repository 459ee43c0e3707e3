"""What notebooks draw and count."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from colar_jax.data.problems import Problem
from colar_jax.evaluation.by_length import accuracy_by_steps
from colar_jax.evaluation.latent_plot import draw_latents
from colar_jax.evaluation.latents import Latent, Word
from colar_jax.statistics.intervals import wilson

matplotlib.use("Agg")


def test_accuracy_goes_by_the_number_of_steps():
    problems = [Problem("", ("step",) * count, "1") for count in (2, 1, 2, 3, 2, 1)]
    found = accuracy_by_steps(problems, [True, False, True, True, False, False])
    assert list(found) == [1, 2, 3]
    assert found == {1: (2, wilson(0, 2)), 2: (3, wilson(2, 3)), 3: (1, wilson(1, 1))}


def test_a_heat_map_has_a_cell_for_each_latent_and_word():
    def latent(**cosines: float) -> Latent:
        return Latent(tuple(Word(0, text, score) for text, score in cosines.items()), (), 0.0, 0.0)

    axes = Figure().add_subplot()
    draw_latents(axes, [latent(a=0.7, b=0.6), latent(c=0.5, a=0.4)], ["ab", "c"])
    (image,) = axes.get_images()
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), -1), [[0.7, 0.6, -1], [0.4, -1, 0.5]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1   ab", "2   c"]
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0, 1))

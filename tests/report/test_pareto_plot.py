"""What is drawn: labels apart, asterisks, the same bytes for the same points."""

import itertools

import numpy as np
import pytest
from cases import fast
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from report.test_differences import RESULTS, result

from colar_jax.report.label_places import Label, place_labels
from colar_jax.report.pareto import pareto_points
from colar_jax.report.pareto_plot import pareto_figure, picture
from colar_jax.report.rows import table_rows

CROWDED = [(6.5, 46.8), (6.48, 46.4), (6.5, 46.6), (6.6, 47.0), (12, 98), (0, 36), (6.5, 46.8)]


@pytest.mark.parametrize("points", [CROWDED[:2], CROWDED, [(0, 0), (0, 0), (0, 0)], [(25, 100), (25, 99.5)]])
def test_labels_cover_neither_each_other_nor_a_point(points):
    figure = Figure(figsize=(5, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(-1, 30)
    axes.set_ylim(0, 105)
    labels = [Label(f"c = {i}.5*", (x, y), (y - 3, y + 3), "black") for i, (x, y) in enumerate(points)]
    boxes = place_labels(axes, labels)
    assert len(boxes) == len(points)
    for one, other in itertools.combinations(boxes, 2):
        assert Bbox.intersection(one, other) is None
    for point in points:
        at = axes.transData.transform(point)
        assert not any(box.contains(*at) for box in boxes)


def test_an_untrained_speed_has_an_asterisk_in_the_plot():
    points = pareto_points(table_rows(RESULTS), ["a"])
    texts = {text.get_text() for text in pareto_figure(points).axes[0].texts}
    assert {"c = 1*", "c = 2", "c = 5", "cot", "no_cot"} <= texts
    legend = {text.get_text() for text in pareto_figure(points).legends[0].get_texts()}
    assert "speed never trained" in legend
    trained = pareto_points(table_rows([result("cot", "-", 9)]), ["a"])
    assert "speed never trained" not in {text.get_text() for text in pareto_figure(trained).legends[0].get_texts()}


def test_where_colours_come_again_labels_have_names():
    many = [result(f"s{number}", "2", number + 1, length=number + 1) for number in range(7)]
    for stages, is_named in ((many, True), (many[:6], False)):
        points = pareto_points(table_rows(stages), ["a"])
        texts = {text.get_text() for text in pareto_figure(points).axes[0].texts}
        assert ("s0, c = 2" in texts) == is_named and ("c = 2" in texts) != is_named


def test_the_line_is_drawn_through_what_is_on_it():
    points = pareto_points(table_rows(RESULTS), ["a"])
    line = pareto_figure(points).axes[0].lines[0]
    expected = sorted((point.length, 100 * point.accuracy.center) for point in points if point.is_on_line)
    np.testing.assert_allclose(np.column_stack(line.get_data()), expected)


PICTURES = [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]


@pytest.mark.parametrize(("kind", "start"), fast(PICTURES, *PICTURES[:2]))
def test_the_same_points_are_the_same_bytes(kind, start):
    points = pareto_points(table_rows(RESULTS), ["a"])
    first, second = (picture(pareto_figure(points), kind) for _ in range(2))
    assert first.startswith(start)
    assert first == second

"""The plot of accuracy against #L, as a picture."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from colar_jax.report.pareto import Point
from colar_jax.report.results import NO_SPEED, SAMPLINGS, Way

# Okabe and Ito's colours, which people who see few colours can tell apart; black and yellow are left out.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#8a8a8a"


def pareto_figure(points: Sequence[Point]) -> Figure:
    """A panel for each way of sampling (down) and data set (across): accuracy in % against #L, with its interval.

    Stages have colours, points are labelled with their speed. Dominated points are hollow; a line joins the others.
    """
    samplings = [name for name in SAMPLINGS if any(point.way.sampling == name for point in points)]
    datasets = list(dict.fromkeys(point.dataset for point in points))
    stages = list(dict.fromkeys(_stage(point.way) for point in points))
    colour_of = {stage: _COLOURS[i % len(_COLOURS)] for i, stage in enumerate(stages)}
    figure = Figure(figsize=(1.2 + 4.2 * len(datasets), 0.9 + 3.3 * len(samplings)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(samplings), len(datasets), squeeze=False)
    for sampling, of_sampling in zip(samplings, panels, strict=True):
        for dataset, axes in zip(datasets, of_sampling, strict=True):
            chosen = [point for point in points if (point.way.sampling, point.dataset) == (sampling, dataset)]
            _draw(axes, chosen, colour_of)
            axes.set_title(f"{dataset}, {sampling}", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("#L, positions of reasoning")
    for of_sampling in panels:
        of_sampling[0].set_ylabel("accuracy in %")
    figure.legend(
        handles=_legend(colour_of), loc="outside lower center", ncols=min(4, len(stages) + 1), frameon=False, fontsize=8
    )
    return figure


def picture(figure: Figure, kind: str) -> bytes:
    """The figure as a file's bytes, `kind` "png" or "svg"; the same figure gives the same bytes."""
    data = io.BytesIO()
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    figure.savefig(data, format=kind, dpi=160, metadata=metadata)
    return data.getvalue()


def _draw(axes: Axes, points: Sequence[Point], colour_of: dict[str, str]) -> None:
    front = sorted((point.length, 100 * point.accuracy.center) for point in points if not point.is_dominated)
    if front:
        axes.plot(*zip(*front, strict=True), color=_GREY, linewidth=1, zorder=1)
    for point in points:
        colour, accuracy = colour_of[_stage(point.way)], point.accuracy
        height = 100 * accuracy.center
        if accuracy.low is not None:
            below, above = height - 100 * accuracy.low, 100 * accuracy.high - height
            axes.errorbar(point.length, height, [[below], [above]], color=colour, linewidth=1, capsize=2, zorder=2)
        face = "white" if point.is_dominated else colour
        axes.plot(point.length, height, "o", markersize=6, color=colour, markerfacecolor=face, zorder=3)
        axes.annotate(
            point_label(point.way),
            (point.length, height),
            (7, -9),
            textcoords="offset points",
            fontsize=8,
            color=colour,
        )
    longest = max((point.length for point in points), default=1)
    axes.set_xlim(-0.03 * longest - 0.3, 1.18 * longest + 0.3)  # a point at 0 clear of the axis, labels inside
    axes.margins(y=0.12)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def point_label(way: Way) -> str:
    """What is written beside a point: its speed, and the limit and temperature that a sweep gave it."""
    parts = [
        "" if way.speed == NO_SPEED else f"c = {way.speed}" if way.speed != "auto" else way.speed,
        "" if way.latent_limit == "-" else f"≤ {way.latent_limit}",
        "" if way.temperature == "-" else f"T = {way.temperature}",
    ]
    return ", ".join(filter(None, parts)) or way.stage


def _stage(way: Way) -> str:
    return f"{way.run}: {way.stage}" if way.run else way.stage


def _legend(colour_of: dict[str, str]) -> list[Line2D]:
    stages = [Line2D([], [], color=colour, marker="o", linestyle="", label=name) for name, colour in colour_of.items()]
    hollow = Line2D([], [], color=_GREY, marker="o", markerfacecolor="white", linestyle="", label="dominated")
    return [*stages, hollow]

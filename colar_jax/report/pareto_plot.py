"""The plot of accuracy against #L, as a picture."""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from colar_jax.report.label_places import Label, place_labels
from colar_jax.report.pareto import Point
from colar_jax.report.results import NO_SPEED, SAMPLINGS, Way

# Okabe and Ito's colours, which people who see few colours can tell apart; black and yellow are left out.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#8a8a8a"


def pareto_figure(points: Sequence[Point]) -> Figure:
    """A panel for each way of sampling (down) and data set (across): accuracy in % against #L, with its interval.

    Stages have colours (and their names, where there are more than colours); points are labelled with their speed (an
    asterisk: never trained). Dominated points are hollow;
    a line joins the others but for those that are worse than a mix of their neighbours by more than their interval.
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
    handles = _legend(colour_of, any(not point.was_trained for point in points))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=8)
    figure.draw_without_rendering()  # lays the panels out, so that labels are placed where their points will be
    figure.set_layout_engine("none")
    for sampling, of_sampling in zip(samplings, panels, strict=True):
        for dataset, axes in zip(datasets, of_sampling, strict=True):
            chosen = [point for point in points if (point.way.sampling, point.dataset) == (sampling, dataset)]
            place_labels(axes, [_label(point, colour_of, needs_names(points)) for point in chosen])
    return figure


def picture(figure: Figure, kind: str) -> bytes:
    """The figure as a file's bytes, `kind` "png", "svg" or "pdf"; the same figure gives the same bytes."""
    data = io.BytesIO()
    metadata = {
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }[kind]
    with matplotlib.rc_context({"svg.hashsalt": "colar_jax"}):  # without it an SVG's ids are drawn anew each time
        figure.savefig(data, format=kind, dpi=160, metadata=metadata)
    return data.getvalue()


def _draw(axes: Axes, points: Sequence[Point], colour_of: dict[str, str]) -> None:
    front = sorted((point.length, 100 * point.accuracy.center) for point in points if point.is_on_line)
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
    longest = max((point.length for point in points), default=1)
    axes.set_xlim(-0.03 * longest - 0.3, 1.18 * longest + 0.3)  # a point at 0 clear of the axis, labels inside
    axes.margins(y=0.12)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def needs_names(points: Sequence[Point]) -> bool:
    """Whether there are more stages than colours, so that labels have to name them."""
    return len({_stage(point.way) for point in points}) > len(_COLOURS)


def point_label(point: Point, is_named: bool = False) -> str:
    """What is written beside a point: its speed, the limit and temperature of a sweep, and its stage if asked for."""
    way, asterisk = point.way, "" if point.was_trained else "*"
    parts = [
        _stage(way) if is_named else "",
        "" if way.speed == NO_SPEED else f"c = {way.speed}{asterisk}" if way.speed != "auto" else f"auto{asterisk}",
        "" if way.latent_limit == "-" else f"≤ {way.latent_limit}",
        "" if way.trim == "-" else f"trim {way.trim}",
        "" if way.temperature == "-" else f"T = {way.temperature}",
    ]
    return ", ".join(filter(None, parts)) or way.stage


def _label(point: Point, colour_of: dict[str, str], is_named: bool) -> Label:
    accuracy = point.accuracy
    low, high = (accuracy.center, accuracy.center) if accuracy.low is None else (accuracy.low, accuracy.high)
    place = point.length, 100 * accuracy.center
    return Label(point_label(point, is_named), place, (100 * low, 100 * high), colour_of[_stage(point.way)])


def _stage(way: Way) -> str:
    return f"{way.run}: {way.stage}" if way.run else way.stage


def _legend(colour_of: dict[str, str], has_untrained: bool) -> list[Line2D]:
    stages = [Line2D([], [], color=colour, marker="o", linestyle="", label=name) for name, colour in colour_of.items()]
    hollow = Line2D([], [], color=_GREY, marker="o", markerfacecolor="white", linestyle="", label="dominated")
    untrained = Line2D([], [], linestyle="", marker="$*$", color=_GREY, label="speed never trained")
    return [*stages, hollow, *([untrained] if has_untrained else [])]

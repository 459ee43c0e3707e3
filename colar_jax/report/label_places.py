"""Labels beside the points of a plot, each where it covers neither another label nor a point."""

import dataclasses
import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_FONT_SIZE = 8
_POINT_RADIUS = 4.5  # in typographic points, as all here
# Where a label may stand, the best first: (x, y, alignments), then the same further out, with a line to the point.
_SIDES = (
    (1, -1, "left", "top"),
    (1, 0, "left", "center"),
    (1, 1, "left", "bottom"),
    (-1, 1, "right", "bottom"),
    (-1, 0, "right", "center"),
    (-1, -1, "right", "top"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
)
_DISTANCES = (6, 15, 25, 37)


@dataclasses.dataclass(frozen=True)
class Label:
    """What is written beside a point, in the units of the axes."""

    text: str
    point: tuple[float, float]
    bar: tuple[float, float]  # from where to where the point's bar goes
    colour: str


def place_labels(axes: Axes, labels: Sequence[Label]) -> list[Bbox]:
    """Write the labels, on axes that are laid out already; returns their boxes, in pixels.

    Labels are placed one after the other: where there is no free place, the least covered one is taken.
    """
    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    radius = _POINT_RADIUS * pixels
    taken = []
    for label in labels:
        x, y = axes.transData.transform(label.point)
        low, high = (axes.transData.transform((label.point[0], end))[1] for end in label.bar)
        taken.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
        taken.append(Bbox.from_extents(x - pixels, low, x + pixels, high))
    inside = axes.get_window_extent(renderer)
    placed = []
    for label in labels:
        note = axes.annotate(
            label.text, label.point, (0, 0), textcoords="offset points", fontsize=_FONT_SIZE, color=label.colour
        )

        def box_at(distance, side, note=note) -> Bbox:
            x, y, horizontal, vertical = side
            note.set_position((distance * x, distance * y))
            note.set_horizontalalignment(horizontal)
            note.set_verticalalignment(vertical)
            return note.get_window_extent(renderer)

        best = min(
            itertools.product(_DISTANCES, _SIDES),
            key=lambda place: _covered(box_at(*place), taken) + _outside(box_at(*place), inside),
        )
        box = box_at(*best)
        if best[0] > _DISTANCES[0]:
            _lead(axes, label, note)
        taken.append(box)
        placed.append(box)
    return placed


def _lead(axes: Axes, label: Label, note) -> None:
    """A thin line from a point to its label, which stands off."""
    x, y = note.get_position()
    axes.annotate(
        "", label.point, (0.8 * x, 0.8 * y), textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip


def _covered(box: Bbox, taken: Sequence[Bbox]) -> float:
    """How much of a box, in pixels, other boxes cover."""
    overlaps = (Bbox.intersection(box, other) for other in taken)
    return sum(overlap.width * overlap.height for overlap in overlaps if overlap is not None)


def _outside(box: Bbox, inside: Bbox) -> float:
    """How much of a box, in pixels, is beyond the panel."""
    within = Bbox.intersection(box, inside)
    return box.width * box.height - (within.width * within.height if within is not None else 0)

"""Geometry of the charts in the HTML report; `templates/page.html` turns it into SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from distillers.report.scales import Scale, padded_range

NUM_COLOURS = 7  # Okabe and Ito's palette without yellow, which is too pale on white paper
SHAPES = (
    "M-4,0A4,4 0 1 0 4,0A4,4 0 1 0 -4,0Z",
    "M-3.7,-3.7H3.7V3.7H-3.7Z",
    "M0,-4.8L4.6,3.4H-4.6Z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0Z",
    "M0,4.8L4.6,-3.4H-4.6Z",
    "M-1.7,-4.8H1.7V-1.7H4.8V1.7H1.7V4.8H-1.7V1.7H-4.8V-1.7H-1.7Z",
    "M0,-5.2L1.5,-1.7L5.2,-1.6L2.3,0.8L3.3,4.6L0,2.4L-3.3,4.6L-2.3,0.8L-5.2,-1.6L-1.5,-1.7Z",
    "M-4.8,-2.4L-2.4,-4.8L0,-2.4L2.4,-4.8L4.8,-2.4L2.4,0L4.8,2.4L2.4,4.8L0,2.4L-2.4,4.8L-4.8,2.4"
    "L-2.4,0Z",
)
DASHES = ("", "6 3", "2 3", "9 3 2 3")
LONG = 20  # epochs from which on the accuracy axis ignores the first quarter of training
CHARACTER_WIDTH = 6.1  # of a label, approximately
MAX_CURVE_POINTS = 240

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Style:
    """Colour, marker and dash pattern of a method in every chart.

    Attributes:
        number: index of the method; negative for a network trained alone.
    """

    number: int

    @property
    def colour(self) -> str:
        """CSS class that sets the colour."""
        return f"s{self.number % NUM_COLOURS}" if self.number >= 0 else "plain"

    @property
    def shape(self) -> str:
        """SVG path of the marker, centred on (0, 0)."""
        return SHAPES[self.number % len(SHAPES)] if self.number >= 0 else SHAPES[0]

    @property
    def dash(self) -> str:
        """SVG dash pattern of the line."""
        return DASHES[self.number // NUM_COLOURS % len(DASHES)] if self.number >= 0 else "2 3"


@dataclass(frozen=True)
class Chart:
    """Frame shared by all charts: size, plot area and axes.

    Attributes:
        width: width of the SVG view box.
        height: height of the view box.
        margin: space to the right of the plot area.
        x_range: values at the left and right edge.
        y_range: accuracies at the bottom and top edge, in percent.
    """

    width: int
    height: int
    margin: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @property
    def plot(self) -> Box:
        """Area of the data."""
        return 50, 14, self.width - self.margin, self.height - 44

    @cached_property
    def x(self) -> Scale:
        """Horizontal axis."""
        return Scale(*self.x_range, self.plot[0], self.plot[2])

    @cached_property
    def y(self) -> Scale:
        """Vertical axis."""
        return Scale(*self.y_range, self.plot[3], self.plot[1])


@dataclass(frozen=True)
class Point:
    """One method in a cost chart.

    Attributes:
        label: row label of the method.
        style: its look.
        x: cost.
        y: accuracy in percent.
        sd: standard deviation of the accuracy, or None.
    """

    label: str
    style: Style
    x: float
    y: float
    sd: float | None


@dataclass(frozen=True)
class CostChart(Chart):
    """Accuracy against one cost, with the Pareto front.

    Attributes:
        name: name and unit of the cost.
        more_is_better: whether a larger value is better, as for images per second.
        points: the methods; those on the front first, so that they are labelled first.
        front: the methods that no other dominates.
    """

    name: str
    more_is_better: bool
    points: list[Point]
    front: list[Point]

    @cached_property
    def stairs(self) -> str:
        """SVG path of the edge of the dominated region."""
        left, _, right, bottom = self.plot
        steps = "".join(f"H{self.x(point.x):.1f}V{self.y(point.y):.1f}" for point in self.front)
        start = f"M{self.x(self.front[0].x):.1f},{bottom}"
        return f"{start}{steps}H{left if self.more_is_better else right}"

    @cached_property
    def labels(self) -> list[tuple[float, float, str] | None]:
        """Position and text anchor of each point's label; None if there is no free space."""
        at = [(self.x(point.x), self.y(point.y)) for point in self.points]
        taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in at]
        placed: list[tuple[float, float, str] | None] = []
        for point, (x, y) in zip(self.points, at, strict=True):
            width = CHARACTER_WIDTH * len(shorten(point.label, 18))
            placed.append(self._free_place(x, y, width, taken))
        return placed

    def _free_place(
        self, x: float, y: float, width: float, taken: list[Box]
    ) -> tuple[float, float, str] | None:
        """Find a place for a label near a point and add its box to those taken."""
        left, top, right, bottom = self.plot
        for dx, dy in ((9, 4), (6, -9), (6, 17)):
            for start, at, anchor in ((x + dx, x + dx, "start"), (x - dx - width, x - dx, "end")):
                box = (start, y + dy - 10, start + width, y + dy + 3)
                inside = left <= box[0] and box[2] <= right and top <= box[1] and box[3] <= bottom
                if inside and not any(_overlap(box, other) for other in taken):
                    taken.append(box)
                    return at, y + dy, anchor
        return None


def cost_chart(
    points: Sequence[Point], name: str, more_is_better: bool, y_range: tuple[float, float]
) -> CostChart:
    """Lay out a cost chart.

    Args:
        points: the methods.
        name: name and unit of the cost.
        more_is_better: whether a larger value is better.
        y_range: accuracies at the bottom and top edge.
    """
    front = pareto_front(points, more_is_better)
    x_range = padded_range([point.x for point in points], 0.16)
    ordered = sorted(points, key=lambda point: point not in front)
    return CostChart(380, 290, 12, x_range, y_range, name, more_is_better, ordered, front)


def pareto_front(points: Sequence[Point], more_is_better: bool) -> list[Point]:
    """Return the points that no other equals or beats in both values, best cost first."""
    sign = -1 if more_is_better else 1
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (sign * p.x, -p.y)):
        if point.y > best:
            best = point.y
            kept.append(point)
    return kept


@dataclass(frozen=True)
class Curve:
    """Learning curve of one method.

    Attributes:
        label: row label of the method.
        style: its look.
        values: test accuracy after each epoch, in percent.
    """

    label: str
    style: Style
    values: Sequence[float]


@dataclass(frozen=True)
class CurveChart(Chart):
    """Test accuracy after every epoch, each curve labelled at its end.

    Attributes:
        curves: one for each method.
        teacher: accuracy of the teacher in percent, or None.
    """

    curves: list[Curve]
    teacher: float | None

    @cached_property
    def ends(self) -> list[float]:
        """Vertical positions of the labels."""
        ends = [self.y(curve.values[-1]) for curve in self.curves]
        return separate(ends, 15, self.plot[1], self.plot[3])

    def path(self, curve: Curve) -> str:
        """Return the SVG path of a curve, thinned to about `MAX_CURVE_POINTS` points."""
        last = len(curve.values) - 1
        stride = max(1, len(curve.values) // MAX_CURVE_POINTS)
        kept = sorted({*range(0, last + 1, stride), last})
        return "M" + "L".join(
            f"{self.x(epoch + 1):.1f},{self.y(curve.values[epoch]):.1f}" for epoch in kept
        )


def curve_chart(curves: list[Curve], teacher: float | None) -> CurveChart:
    """Lay out the learning curves; the axis ignores the steep start of a long training."""
    epochs = max(len(curve.values) for curve in curves)
    begin = epochs // 4 if epochs >= LONG else 0
    shown = [value for curve in curves for value in curve.values[begin:]]
    y_range = padded_range([*shown, *([teacher] if teacher is not None else [])], 0.05)
    return CurveChart(1100, 440, 270, (1, max(epochs, 2)), y_range, curves, teacher)


def separate(positions: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Move positions at least `gap` apart, keeping their order and moving them little.

    Args:
        positions: the wanted positions, in any order.
        gap: the smallest distance of two.
        top: the smallest position.
        bottom: the largest position; exceeded only when there is not enough room.
    """
    order = sorted(range(len(positions)), key=lambda number: positions[number])
    moved = list(positions)
    floor = top
    for number in order:
        moved[number] = floor = max(positions[number], floor)
        floor += gap
    ceiling = max(bottom, top + gap * (len(positions) - 1))
    for number in reversed(order):
        moved[number] = ceiling = min(moved[number], ceiling)
        ceiling -= gap
    return moved


def shorten(text: str, length: int) -> str:
    """Truncate a text to `length` characters, the last an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

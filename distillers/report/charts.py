"""Geometry of the charts in the HTML report; `templates/page.html` turns it into SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from distillers.report.comparisons import MethodRow

NUM_COLORS = 7  # Okabe and Ito's palette without yellow, which is too pale on white paper
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
MAX_LABEL = 18  # characters
MAX_CURVE_POINTS = 240

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Style(NamedTuple):
    """Look of a method in every chart: CSS class of the color, SVG marker and dash pattern."""

    color: str
    shape: str
    dash: str


def style_of(number: int | None) -> Style:
    """Return the style of a method by its index on the page; None for a network trained alone."""
    if number is None:
        return Style("plain", SHAPES[0], "2 3")
    shape, dash = SHAPES[number % len(SHAPES)], DASHES[number // NUM_COLORS % len(DASHES)]
    return Style(f"s{number % NUM_COLORS}", shape, dash)


class Chart:
    """Frame of a chart: size of the SVG view box, plot area and axes."""

    def __init__(
        self,
        size: tuple[int, int],
        margin: int,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
    ) -> None:
        self.width, self.height = size
        self.plot: Box = 50, 14, self.width - margin, self.height - 44
        left, top, right, bottom = self.plot
        self.x, self.y = Scale(*x_range, left, right), Scale(*y_range, bottom, top)


class Point(NamedTuple):
    """One method in a cost chart: its cost and its accuracy in percent."""

    label: str
    x: float
    y: float
    sd: float | None


class CostChart(Chart):
    """Accuracy against one cost, with the Pareto front."""

    def __init__(self, points: Sequence[Point], name: str, more_is_better: bool) -> None:
        x_range = padded_range([point.x for point in points], 0.16)
        ends = [point.y + sign * (point.sd or 0) for point in points for sign in (-1, 1)]
        super().__init__((380, 290), 12, x_range, padded_range(ends, 0.06))
        self.name, self.more_is_better = name, more_is_better
        self.front = pareto_front(points, more_is_better)
        self.points = sorted(points, key=lambda point: point not in self.front)  # labelled first

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
            width = CHARACTER_WIDTH * min(len(point.label), MAX_LABEL)
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


def pareto_front(points: Sequence[Point], more_is_better: bool) -> list[Point]:
    """Return the points that no other equals or beats in both values, best cost first."""
    sign = -1 if more_is_better else 1
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (sign * p.x, -p.y)):
        if point.y > best:
            best = point.y
            kept.append(point)
    return kept


class CurveChart(Chart):
    """Mean test accuracy after every epoch, each curve labelled at its end."""

    def __init__(self, rows: Sequence[MethodRow], teacher: float | None) -> None:
        epochs = max(len(row.mean_curve) for row in rows)
        self.omits_start = epochs >= LONG
        begin = epochs // 4 if self.omits_start else 0
        shown = [value for row in rows for value in row.mean_curve[begin:]]
        y_range = padded_range([*shown, *([teacher] if teacher is not None else [])], 0.05)
        super().__init__((1100, 440), 270, (1, max(epochs, 2)), y_range)
        self.rows, self.teacher = rows, teacher
        ends = [self.y(row.mean_curve[-1]) for row in rows]
        self.ends = separate(ends, 15, self.plot[1], self.plot[3])

    def path(self, values: Sequence[float]) -> str:
        """Return the SVG path of a curve, thinned to about `MAX_CURVE_POINTS` points."""
        last = len(values) - 1
        stride = max(1, len(values) // MAX_CURVE_POINTS)
        kept = sorted({*range(0, last + 1, stride), last})
        return "M" + "L".join(
            f"{self.x(epoch + 1):.1f},{self.y(values[epoch]):.1f}" for epoch in kept
        )


def separate(positions: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Move positions at least `gap` apart between `top` and `bottom`, keeping their order."""
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


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class Scale:
    """Linear map from data values, low to high, to coordinates, start to stop."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, about: int = 6, min_step: float = 0.0) -> list[float]:
        """Return round values on the axis, 1, 2 or 5 times a power of ten and `min_step` apart."""
        step = round_step(max((self.high - self.low) / about, min_step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def padded_range(values: Sequence[float], share: float) -> tuple[float, float]:
    """Return a range of positive length around the values, padded by a share of their range."""
    low, high = min(values), max(values)
    padding = (high - low) * share or max(abs(high) * share, 0.5)
    return low - padding, high + padding

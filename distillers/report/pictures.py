"""The pictures of a report: what accuracy costs, and how it came about."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from distillers.report.marks import Scale, Style, short, spread

Box = tuple[float, float, float, float]  # left, top, right, bottom
LONG = 20  # epochs from which on the vertical axis leaves out the first quarter's lowest
LETTER = 6.1  # width of a letter of a label, nearly


@dataclass(frozen=True)
class Point:
    """One method in a picture of cost.

    Attributes:
        label: its name.
        style: how it looks.
        x: its cost.
        y: its accuracy.
        sd: of the accuracy, or None.
    """

    label: str
    style: Style
    x: float
    y: float
    sd: float | None


@dataclass(frozen=True)
class Line:
    """One method's learning curve.

    Attributes:
        label: its name.
        style: how it looks.
        values: one an epoch.
    """

    label: str
    style: Style
    values: Sequence[float]


@dataclass(frozen=True)
class Frame:
    """A picture's size and the room that its axes take.

    Attributes:
        width: of the picture.
        height: likewise.
        right: room at the right of the plot.
    """

    width: float
    height: float
    right: float = 12

    @property
    def plot(self) -> Box:
        """Where the data go."""
        return 50, 14, self.width - self.right, self.height - 44

    def across(self, low: float, high: float) -> Scale:
        """The horizontal axis."""
        return Scale(low, high, self.plot[0], self.plot[2])

    def up(self, low: float, high: float) -> Scale:
        """The vertical axis."""
        return Scale(low, high, self.plot[3], self.plot[1])


def cost_picture(
    points: Sequence[Point], name: str, more_is_better: bool, low: float, high: float
) -> str:
    """Accuracy against a cost, with the front of what nothing beats in both.

    Args:
        points: the methods.
        name: of the cost, with its unit.
        more_is_better: whether a larger cost is better, as images a second are.
        low: accuracy at the lower edge.
        high: accuracy at the upper edge.
    """
    frame = Frame(380, 290)
    x = frame.across(*spread([point.x for point in points], 0.16))
    y = frame.up(low, high)
    best = front(points, more_is_better)
    parts = [
        _axes(frame, x, y, name),
        f'<path class="front" d="{_stairs(best, frame, x, y, more_is_better)}"/>',
    ]
    taken = [_around(x(point.x), y(point.y), 7, 7) for point in points]
    ordered = sorted(points, key=lambda point: point not in best)  # the front's are named first
    parts += [_point(p, name, x, y, _label(p, x, y, taken, frame.plot)) for p in ordered]
    told = f"Test accuracy against {name}. Nothing beats {', '.join(p.label for p in best)}."
    return _picture(frame, told, "".join(parts), "cost")


def front(points: Sequence[Point], more_is_better: bool) -> list[Point]:
    """The points that no other equals or beats in both, from the cheapest on."""
    sign = -1 if more_is_better else 1
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (sign * p.x, -p.y)):
        if point.y > best:
            best = point.y
            kept.append(point)
    return kept


def curves_picture(lines: Sequence[Line], teacher: float | None) -> str:
    """Test accuracy after every epoch, one line a method with its name at the end.

    Args:
        lines: the methods.
        teacher: its accuracy, a line of its own, or None.
    """
    frame = Frame(1100, 440, right=270)
    left, top, right, bottom = frame.plot
    epochs = max(len(line.values) for line in lines)
    begin = epochs // 4 if epochs >= LONG else 0  # the first epochs would flatten all others
    seen = [value for line in lines for value in line.values[begin:]]
    x = frame.across(1, max(epochs, 2))
    y = frame.up(*spread([*seen, *([teacher] if teacher is not None else [])], 0.05))
    parts = [_axes(frame, x, y, "epoch", x_step=1)]
    if teacher is not None:
        parts.append(
            f'<path class="teacher" d="M{left},{y(teacher):.1f}H{right}"/>'
            f'<text class="small" x="{left + 8}" y="{y(teacher) - 5:.1f}">teacher '
            f"{teacher:.2f}</text>"
        )
    ends = apart([y(line.values[-1]) for line in lines], 15, top, bottom)
    for line, end in zip(lines, ends, strict=True):
        style, last = line.style, y(line.values[-1])
        parts.append(
            f'<g class="line {style.colour}" data-m="{escape(line.label)}">'
            f'<svg x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
            f'viewBox="{left} {top} {right - left} {bottom - top}">'
            f'<path d="{_path(line.values, x, y)}" stroke-dasharray="{style.dash}"/></svg>'
            f'<path class="lead" d="M{right},{last:.1f}L{right + 12},{end:.1f}"/>'
            f'<path class="dot" d="{style.shape}" transform="translate({right + 20},{end:.1f})"/>'
            f'<text x="{right + 30}" y="{end + 4:.1f}">{escape(short(line.label, 26))} '
            f'<tspan class="small">{line.values[-1]:.2f}</tspan></text></g>'
        )
    told = "Test accuracy after every epoch; at the end " + ", ".join(
        f"{line.label} {line.values[-1]:.2f}" for line in lines
    )
    return _picture(frame, told + ".", "".join(parts), "curves")


def apart(places: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Places in their order, at least `gap` apart, moved as little as that takes.

    Args:
        places: where things would like to be, in any order.
        gap: between two.
        top: the smallest place.
        bottom: the largest, passed only where there is no room.
    """
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    floor = top
    for number in order:
        moved[number] = floor = max(places[number], floor)
        floor += gap
    ceiling = max(bottom, top + gap * (len(places) - 1))
    for number in reversed(order):
        moved[number] = ceiling = min(moved[number], ceiling)
        ceiling -= gap
    return moved


def _picture(frame: Frame, told: str, content: str, kind: str) -> str:
    return (
        f'<svg class="picture {kind}" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
        f'aria-label="{escape(told)}">{content}</svg>'
    )


def _axes(frame: Frame, x: Scale, y: Scale, of_x: str, x_step: float = 0.0) -> str:
    left, top, right, bottom = frame.plot
    across = (
        f'<path class="grid" d="M{left},{y(tick):.1f}H{right}"/>'
        f'<text class="small" text-anchor="end" x="{left - 6}" y="{y(tick) + 4:.1f}">'
        f"{tick:g}</text>"
        for tick in y.ticks()
    )
    up = (
        f'<path class="axis" d="M{x(tick):.1f},{bottom}v5"/>'
        f'<text class="small" text-anchor="middle" x="{x(tick):.1f}" y="{bottom + 18}">'
        f"{tick:,.10g}</text>"
        for tick in x.ticks(5, x_step)
    )
    return (
        f"{''.join(across)}{''.join(up)}"
        f'<path class="axis" d="M{left},{bottom}H{right}"/>'
        f'<text class="small" text-anchor="end" x="{right}" y="{bottom + 36}">{escape(of_x)}</text>'
        f'<text class="small" x="{left - 42}" y="{top - 3}">test accuracy, %</text>'
    )


def _path(values: Sequence[float], x: Scale, y: Scale) -> str:
    stride = max(1, len(values) // 240)
    kept = sorted({*range(0, len(values), stride), len(values) - 1})
    return "M" + "L".join(f"{x(number + 1):.1f},{y(values[number]):.1f}" for number in kept)


def _stairs(best: Sequence[Point], frame: Frame, x: Scale, y: Scale, more_is_better: bool) -> str:
    """The edge of what is beaten: through the points, level between them."""
    left, _, right, bottom = frame.plot
    path = f"M{x(best[0].x):.1f},{bottom}"
    for point in best:
        path += f"H{x(point.x):.1f}V{y(point.y):.1f}"
    return path + f"H{left if more_is_better else right}"


def _point(point: Point, name: str, x: Scale, y: Scale, label: str) -> str:
    told = f"{point.label}: {point.y:.2f} %, {point.x:.4g} {name}"
    across, up, bar = x(point.x), y(point.y), ""
    if point.sd:
        ends = y(point.y - point.sd), y(point.y + point.sd)
        bar = f'<path class="bar" d="M{across:.1f},{ends[0]:.1f}V{ends[1]:.1f}"/>'
    return (
        f'<g class="point {point.style.colour}" data-m="{escape(point.label)}">'
        f"<title>{escape(told)}</title>{bar}"
        f'<path class="dot" d="{point.style.shape}" transform="translate({across:.1f},{up:.1f})"/>'
        f"{label}</g>"
    )


def _label(point: Point, x: Scale, y: Scale, taken: list[Box], plot: Box) -> str:
    """The name beside a point, where it covers nothing; none where there is no such place."""
    text = short(point.label, 18)
    across, up, wide = x(point.x), y(point.y), LETTER * len(text)
    places = (
        (across + 9, up + 4, "start"),
        (across - 9, up + 4, "end"),
        (across + 6, up - 9, "start"),
        (across - 6, up - 9, "end"),
        (across + 6, up + 17, "start"),
        (across - 6, up + 17, "end"),
    )
    for at, base, anchor in places:
        left = at if anchor == "start" else at - wide
        box = (left, base - 10, left + wide, base + 3)
        inside = box[0] >= plot[0] and box[2] <= plot[2] and box[1] >= plot[1] and box[3] <= plot[3]
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return f'<text x="{at:.1f}" y="{base:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    return ""


def _around(x: float, y: float, across: float, up: float) -> Box:
    return x - across, y - up, x + across, y + up


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

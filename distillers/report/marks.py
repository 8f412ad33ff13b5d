"""Marks and axes of a report's pictures, as SVG that takes its colours from the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_COLOURS = 7  # Okabe and Ito's, without the yellow that white paper swallows
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
STRIP = 160  # width of a row's picture
NAMED = 20  # runs whose accuracies a tooltip lists
DASHES = ("", "6 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Style:
    """How a method looks in every picture.

    Attributes:
        number: colour, shape and dash follow from it; negative for a network alone.
    """

    number: int

    @property
    def colour(self) -> str:
        """The class that colours it."""
        return f"s{self.number % NUM_COLOURS}" if self.number >= 0 else "plain"

    @property
    def shape(self) -> str:
        """Its mark, around (0, 0)."""
        return SHAPES[self.number % len(SHAPES)] if self.number >= 0 else SHAPES[0]

    @property
    def dash(self) -> str:
        """Its line's pattern."""
        return DASHES[self.number // NUM_COLOURS % len(DASHES)] if self.number >= 0 else "2 3"


@dataclass(frozen=True)
class Scale:
    """A linear axis from values to places.

    Attributes:
        low: value at `start`.
        high: value at `stop`.
        start: a place.
        stop: a place.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, about: int = 6, smallest: float = 0.0) -> list[float]:
        """Round values within the axis, one, two or five times a power of ten apart.

        Args:
            about: how many of them, nearly.
            smallest: the least step; 1 where only whole numbers mean something.
        """
        step = nice(max((self.high - self.low) / about, smallest))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def nice(step: float) -> float:
    """The next of 1, 2, 5, 10, ... times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def spread(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """A range that holds the values with some room, never of no length."""
    low, high = min(values), max(values)
    room = (high - low) * share or max(abs(high) * share, 0.5)
    return low - room, high + room


def swatch(style: Style) -> str:
    """The mark of a method beside its name."""
    return (
        f'<svg class="mark {style.colour}" viewBox="-7 -7 14 14" aria-hidden="true">'
        f'<path d="{style.shape}"/></svg>'
    )


def strip(values: Sequence[float], style: Style, scale: Scale, baseline: float | None) -> str:
    """Every run as a dot and their mean as a tick.

    Args:
        values: one a run.
        style: how they look.
        scale: their axis.
        baseline: a line to compare with.
    """
    mean = scale(math.fsum(values) / len(values))
    places = sorted({round(scale(value), 1) for value in values})
    dots = "".join(f'<circle cx="{place}" cy="10" r="3.2"/>' for place in places)
    told = ", ".join(f"{value:.2f}" for value in values[:NAMED])
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    base = "" if baseline is None else f'<path class="base" d="M{scale(baseline):.1f},0V20"/>'
    return (
        f'<svg class="strip {style.colour}" viewBox="0 0 {STRIP} 20" role="img">'
        f'<title>{told}{more}</title><path class="axis" d="M5,10H{STRIP - 5}"/>{base}{dots}'
        f'<path class="tick" d="M{mean:.1f},2V18"/></svg>'
    )


def short(text: str, most: int = 22) -> str:
    """A text of at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"

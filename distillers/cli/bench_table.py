"""Tables of measured steps, the duration of a training, and recommended flags."""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from distillers.config.sizes import format_bytes, pluralize
from distillers.training.benchmark import DEFAULT, PLAIN, STUDENT, TEACHER, VARIANTS, StepTiming


@dataclass(frozen=True)
class Measurements:
    """Measurements by method.

    Attributes:
        rows: results of `distillers.training.benchmark.measure`.
        peaks: peak memory of a step in MiB by variant; empty if not measured.
        cache_bytes: cache size of one view of all images.
    """

    rows: dict[str, dict[str, StepTiming]] = field(default_factory=dict)
    peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    cache_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingLength:
    """Length of a training."""

    steps: int
    epochs: int
    views: int

    def hours(self, rows: Mapping[str, StepTiming], name: str) -> float:
        """Return the hours of all steps of a variant by name, with its compilation.

        With a cache, the teacher still runs in the first `views` epochs.
        """
        variant, row = VARIANTS[name], rows[name]
        filling = min(self.views, self.epochs) if variant.cached else 0
        without = rows[name.removeprefix("cached").strip() or DEFAULT]
        ms = self.steps * (filling * without.ms + (self.epochs - filling) * row.ms)
        first_s = row.first_s + (without.first_s if filling and variant.compile else 0)
        return (ms / 1000 + first_s) / 3600


def lines(measurements: Measurements, training: TrainingLength) -> Iterator[str]:
    """Yield the lines of tables of ratios, memory and hours, and of recommended flags."""
    every = measurements.rows
    variants = [name for name in VARIANTS if all(name in rows for rows in every.values())]
    parts = {
        n: statistics.median(rows[n].ms for rows in every.values()) for n in (STUDENT, TEACHER)
    }
    yield ", ".join(f"{name} {ms:,.1f} ms" for name, ms in parts.items())
    yield "a whole step, as a multiple of their sum:"
    yield from _table(
        {m: [f"{r[v].ratio:.3f}" for v in variants] for m, r in every.items()}, variants
    )
    if measurements.peaks:
        yield "peak memory of a step, in MiB:"
        shown = {
            m: [f"{peaks[v]:,.0f}" for v in variants] for m, peaks in measurements.peaks.items()
        }
        yield from _table(shown, variants)
    length = f"{pluralize(training.epochs, 'epoch')} of {pluralize(training.steps, 'step')}"
    yield f"hours of {length}, evaluation aside:"
    hours = {m: {v: training.hours(rows, v) for v in variants} for m, rows in every.items()}
    yield from _table(
        {m: [_hours(each[v]) for v in variants] for m, each in hours.items()}, variants
    )
    if DEFAULT not in variants:  # the advice compares with it
        return
    for method, each in hours.items():
        yield f"{method}: {advice(each, training, measurements.cache_bytes[method])}"


def advice(hours: Mapping[str, float], training: TrainingLength, cache_bytes: int) -> str:
    """Return the flags of the fastest training of a method, and their cost."""
    can_be = {name: time for name, time in hours.items() if name != PLAIN}
    best = min(can_be, key=can_be.__getitem__)
    if best == DEFAULT:
        return f"leave the flags as they are ({_hours(hours[DEFAULT])} hours)"
    saved = f"{_hours(hours[best])} hours instead of {_hours(hours[DEFAULT])}"
    variant = VARIANTS[best]
    if not variant.cached:
        return f"{variant.flags}: {saved}"
    disk = format_bytes(cache_bytes * training.views)
    without = min((n for n in can_be if not VARIANTS[n].cached), key=can_be.__getitem__)
    words = VARIANTS[without].flags or "no flag"
    return (
        f"{variant.flags} --views {training.views}: {saved}, and {disk} on the disk; "
        f"with a new view in each epoch {words}, {_hours(hours[without])} hours"
    )


def _hours(hours: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(hours))) if hours > 0 else 0
    return f"{hours:,.{min(digits, 4)}f}"


def _table(rows: Mapping[str, list[str]], variants: list[str]) -> Iterator[str]:
    widths = [max(len(name), 8) + 2 for name in variants]
    first = max(map(len, rows)) + 2
    yield " " * first + "".join(f"{w:>{n}}" for w, n in zip(variants, widths, strict=True))
    for name, cells in rows.items():
        yield f"{name:<{first}}" + "".join(f"{c:>{n}}" for c, n in zip(cells, widths, strict=True))

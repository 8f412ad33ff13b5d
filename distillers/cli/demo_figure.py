"""The demo's figure: accuracy of each seed, and digits that only a distilled student classifies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from distillers.cli.demo import LABELLED, Result
from distillers.data import ImageSet
from distillers.figures.paper import BLUE

SHOWN = 12  # digits
ROW = 0.42  # inches


def draw(path: Path, teacher: Result, results: Sequence[Result], images: ImageSet) -> None:
    """Plot the results of the methods, the student trained alone first, as a PNG."""
    dots = 1.3 + ROW * len(results)
    figure = Figure(figsize=(9, dots + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    halves = np.asarray(figure.subfigures(2, 1, height_ratios=(dots, 1.4)))
    _dots(halves[0], teacher, results)
    _digits(halves[1], results, images)
    figure.savefig(path, dpi=120)


def _dots(figure: SubFigure, teacher: Result, results: Sequence[Result]) -> None:
    """Draw a row for each method: its seeds, their mean, and the 95 % interval of the mean."""
    axes = figure.subplots()
    order = [results[0], *sorted(results[1:], key=lambda r: r.stats.mean)]
    for row, result in enumerate(order):
        tint = "black" if row == 0 else BLUE
        mean, ends = result.stats.mean, result.stats.interval
        if ends is not None:
            axes.hlines(row, max(0.0, ends[0]), min(100.0, ends[1]), color=tint, lw=2, alpha=0.4)
        seeds = result.accuracies
        axes.plot(seeds, [row] * len(seeds), "o", color=tint, ms=4, alpha=0.5, mew=0)
        axes.plot(mean, row, "o", color=tint, ms=9)
        axes.annotate(f"{mean:.1f}", (mean, row), (0, 8), textcoords="offset points", ha="center")
    best = teacher.accuracies[0]
    axes.axvline(best, color="black", lw=1, ls=":")
    top = len(order) - 0.4
    axes.text(best, top, f"teacher {best:.1f}", ha="right", va="bottom")
    axes.set_yticks(range(len(order)), [f"student, {r.name}" for r in order])
    axes.set_ylim(-0.5, top)
    axes.set_xlabel("accuracy on 500 test digits, %: each seed, their mean and its 95 % interval")
    axes.set_title(f"The same small student, the same {LABELLED} labelled digits", loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def _digits(figure: SubFigure, results: Sequence[Result], images: ImageSet) -> None:
    best = max(results[1:], key=lambda r: r.stats.mean, default=results[0])
    assert best.correct is not None  # set by compare
    assert results[0].correct is not None
    rows = (best.correct & ~results[0].correct).nonzero().flatten().tolist()
    figure.suptitle(
        f"{len(rows)} digits that only the student with {best.name} classifies correctly; "
        f"the first {min(SHOWN, len(rows))}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    for axes, row in zip(figure.subplots(1, SHOWN), rows + [None] * SHOWN, strict=False):
        axes.axis("off")
        if row is not None:
            axes.imshow(images.test_images[row, 0].numpy(), cmap="gray_r")
            axes.set_title(str(images.test_labels[row].item()))

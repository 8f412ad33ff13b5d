"""The demo's figure: learning curves, and digits that only a distilled student classifies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from distillers.cli.demo import LABELLED, Result
from distillers.data import ImageSet

SHOWN = 12  # digits
MARKERS = "osv^D<>Pp*Xd"


def draw(path: Path, teacher: Result, results: Sequence[Result], images: ImageSet) -> None:
    """Plot the results as a PNG.

    Args:
        path: output file.
        teacher: result of the teacher.
        results: one for each method, the student trained alone first.
        images: the digits.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    halves = np.asarray(figure.subfigures(2, 1, height_ratios=(2.2, 1)))
    _curves(halves[0], teacher, results)
    _digits(halves[1], results, images)
    figure.savefig(path, dpi=120)


def _curves(figure: SubFigure, teacher: Result, results: Sequence[Result]) -> None:
    axes = figure.subplots()
    axes.axhline(teacher.accuracies[0], color="black", lw=1, ls=":", label="teacher")
    for number, result in enumerate(results):
        curve = np.mean(result.curves, axis=0)
        alone = number == 0
        axes.plot(
            range(1, len(curve) + 1),
            curve,
            color="black" if alone else None,
            lw=2.5 if alone else 1.5,
            marker=MARKERS[number % len(MARKERS)],
            ms=4,
            label=f"{result.name} ({curve[-1]:.1f} %)",
        )
    axes.set_xlabel("epoch (10 steps each)")
    axes.set_ylabel("accuracy on 500 test digits, %")
    axes.set_title(f"The same small student, the same {LABELLED} labelled digits")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _digits(figure: SubFigure, results: Sequence[Result], images: ImageSet) -> None:
    best = max(results[1:], key=lambda r: np.mean(r.accuracies), default=results[0])
    assert best.correct is not None  # set by compare
    assert results[0].correct is not None
    rows = (best.correct & ~results[0].correct).nonzero().flatten().tolist()
    figure.suptitle(
        f"{len(rows)} digits that only the student with {best.name} classifies correctly; "
        f"the first {min(SHOWN, len(rows))}"
    )
    for axes, row in zip(figure.subplots(1, SHOWN), rows + [None] * SHOWN, strict=False):
        axes.axis("off")
        if row is not None:
            axes.imshow(images.test_images[row, 0].numpy(), cmap="gray_r")
            axes.set_title(str(images.test_labels[row].item()))

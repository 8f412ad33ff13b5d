"""Reliability diagrams: accuracy against confidence.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599, figure 1.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from pandas import DataFrame, concat

from distillers.figures.calibration import (
    NUM_BINS,
    Bins,
    bin_by_confidence,
    expected_calibration_error,
)
from distillers.figures.paper import BLUE, SMALL, VERMILION, FigureData, make_panels, num_columns
from distillers.figures.responses import Responses

EDGES = [number / NUM_BINS for number in range(NUM_BINS + 1)]


def plot(responses: Sequence[Responses]) -> FigureData:
    """Plot the accuracy in 15 confidence bins, one panel for each network."""
    columns = num_columns(len(responses))
    height = {1: 2.6, 2: 1.75, 3: 1.3}[columns]
    figure, axes = make_panels(len(responses), panel_height=height, extra=0.15)
    tables = []
    for number, (panel, each) in enumerate(zip(axes, responses, strict=True)):
        confidence = each.logits.double().softmax(1).amax(1)
        bins = bin_by_confidence(confidence, each.correct)
        error = expected_calibration_error(confidence, each.correct)
        _diagram(panel, bins)
        panel.set_title(each.name)
        panel.text(0.97, 0.04, f"ECE {100 * error:.1f} %", ha="right", fontsize=SMALL)
        if number % columns == 0:
            panel.set_ylabel("accuracy")
        if number + columns >= len(responses):
            panel.set_xlabel("confidence")
        values = {
            "above": EDGES[:-1],
            "up_to": EDGES[1:],
            "images": bins.count.long(),
            "accuracy": bins.correct / bins.count,  # missing in empty bins
            "confidence": bins.confidence / bins.count,
        }
        tables.append(DataFrame({"network": each.name, **values}))
    caption = (
        f"Reliability diagrams on {len(responses[0].labels):,} test images, {NUM_BINS} bins of "
        "equal width: the accuracy of each bin against its mean confidence (the largest softmax "
        "probability); lines show the calibration gap, disc areas the share of the images. Below "
        "the diagonal a network is overconfident. ECE: expected calibration error."
    )
    return FigureData("reliability", figure, caption, concat(tables))


def _diagram(panel: Axes, bins: Bins) -> None:
    occupied = bins.count > 0
    count = bins.count[occupied].numpy()
    accuracy = bins.correct[occupied].numpy() / count
    confidence = bins.confidence[occupied].numpy() / count
    panel.plot((0, 1), (0, 1), color="#aaaaaa", lw=0.6, zorder=0)
    panel.vlines(confidence, confidence, accuracy, color=VERMILION, lw=1.0, zorder=1)
    area = np.maximum(90 * count / count.sum(), 2.0)
    panel.scatter(confidence, accuracy, area, color=BLUE, linewidths=0, zorder=2, clip_on=False)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    panel.set_xticklabels(("0", ".5", "1"))
    panel.set_yticklabels(("0", ".5", "1"))
    panel.set_aspect("equal")
    panel.spines[["top", "right"]].set_visible(False)

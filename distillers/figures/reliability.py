"""Whether a network is right as often as it is sure: the reliability diagram.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
https://arxiv.org/abs/1706.04599, figure 1.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from distillers.figures.calibration import NUM_BINS, Bins, bins_of, expected_calibration_error
from distillers.figures.paper import BLUE, SMALL, VERMILION, Picture, panels
from distillers.figures.responses import Responses


def draw(responses: Sequence[Responses]) -> Picture:
    """Accuracy in each of 15 bins of confidence, a panel a network.

    Args:
        responses: of the networks, to the same images.
    """
    columns = 2 if len(responses) in (2, 4) else min(len(responses), 3)
    height = {1: 2.6, 2: 1.75, 3: 1.3}[columns]
    figure, axes = panels(len(responses), columns=columns, panel_height=height, extra=0.15)
    rows: list[dict[str, object]] = []
    for number, (panel, each) in enumerate(zip(axes, responses, strict=True)):
        confidence, classes = each.logits.double().softmax(1).max(1)
        is_right = classes == each.labels
        bins = bins_of(confidence, is_right)
        error = expected_calibration_error(confidence, is_right)
        _diagram(panel, bins)
        panel.set_title(each.name)
        panel.text(0.97, 0.04, f"ECE {100 * error:.1f} %", ha="right", fontsize=SMALL)
        if number % columns == 0:
            panel.set_ylabel("right")
        if number + columns >= len(responses):
            panel.set_xlabel("confidence")
        rows += _rows(each.name, bins)
    caption = (
        f"Reliability diagrams on {len(responses[0].labels):,} test images, {NUM_BINS} bins of "
        "equal width: the share of right answers of each bin at its mean confidence (the largest "
        "softmax probability); the line is the gap to what it should be, the area of the disc the "
        "share of the images. Below the diagonal a network is surer than it is right. ECE: "
        "expected calibration error."
    )
    return Picture("reliability", figure, caption, rows)


def _diagram(panel: Axes, bins: Bins) -> None:
    there = bins.count > 0
    count = bins.count[there].numpy()
    right = bins.right[there].numpy() / count
    confidence = bins.confidence[there].numpy() / count
    panel.plot((0, 1), (0, 1), color="#aaaaaa", lw=0.6, zorder=0)
    panel.vlines(confidence, confidence, right, color=VERMILION, lw=1.0, zorder=1)
    area = np.maximum(90 * count / count.sum(), 2.0)
    panel.scatter(confidence, right, area, color=BLUE, linewidths=0, zorder=2, clip_on=False)
    panel.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    panel.set_xticklabels(("0", ".5", "1"))
    panel.set_yticklabels(("0", ".5", "1"))
    panel.set_aspect("equal")
    panel.spines[["top", "right"]].set_visible(False)


def _rows(name: str, bins: Bins) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for number in range(NUM_BINS):
        count = int(bins.count[number])
        rows.append(
            {
                "network": name,
                "above": number / NUM_BINS,
                "up_to": (number + 1) / NUM_BINS,
                "images": count,
                "accuracy": float(bins.right[number]) / count if count else "",
                "confidence": float(bins.confidence[number]) / count if count else "",
            }
        )
    return rows

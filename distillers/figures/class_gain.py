"""Accuracy gain of each class over a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from distillers.figures.paper import COLORS, MARKERS, FigureData, make_panels, shorten
from distillers.figures.responses import Responses

MAX_CLASSES = 40  # with more, only those with the largest losses and gains are shown
EACH_END = 15


@dataclass(frozen=True, eq=False)
class Gain:
    """Counts of images by class, (k,) float64 each.

    Attributes:
        count: all images.
        won: images that only the network classifies correctly.
        lost: images that only the baseline classifies correctly.
    """

    count: Tensor
    won: Tensor
    lost: Tensor

    @property
    def points(self) -> Tensor:
        """Accuracy minus that of the baseline, (k,) in percentage points."""
        return 100 * (self.won - self.lost) / self.count

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Ends of the 95 % confidence interval of `points`, (k,) each.

        The adjusted Wald interval for paired proportions, which adds one image won and one lost
        and so has a positive width even if the networks agree (Bonett and Price, "Adjusted Wald
        Confidence Interval for a Difference of Binomial Proportions Based on Paired Data", Journal
        of Educational and Behavioral Statistics 37, 2012).
        """
        n, won, lost = self.count + 2, self.won + 1, self.lost + 1
        middle = (won - lost) / n
        margin = 1.959964 * (won + lost - (won - lost) ** 2 / n).sqrt() / n
        return 100 * (middle - margin), 100 * (middle + margin)


def count_gains(labels: Tensor, correct: Tensor, baseline: Tensor, num_classes: int) -> Gain:
    """Count by class the images won and lost against a baseline.

    `correct` and `baseline`, (n,) bool, are whether each of both classifies an image correctly.
    """
    counted = (labels, labels[correct & ~baseline], labels[baseline & ~correct])
    return Gain(*(torch.bincount(each, minlength=num_classes).double() for each in counted))


def plot(
    baseline: Responses, networks: Sequence[Responses], class_names: Sequence[str]
) -> FigureData:
    """Plot the gain and its interval for each class and network, the largest mean gain on top."""
    gains = [
        count_gains(each.labels, each.correct, baseline.correct, each.logits.shape[1])
        for each in networks
    ]
    mean = torch.stack([each.points for each in gains]).mean(0)
    order = mean.argsort(stable=True).tolist()
    shown = order if len(order) <= MAX_CLASSES else order[:EACH_END] + order[-EACH_END:]
    figure, (axes,) = make_panels(1, panel_height=0.5 + 0.13 * len(shown))
    places = np.arange(len(shown), dtype=float)
    if len(shown) < len(order):
        places[EACH_END:] += 1
        axes.axhline(EACH_END, color="#bbbbbb", lw=0.5, ls=":")
    step = 0.6 / len(networks)
    for number, (network, each) in enumerate(zip(networks, gains, strict=True)):
        shift = (number - (len(networks) - 1) / 2) * -step
        low, high = (end[shown].numpy() for end in each.interval)
        gained = f"{network.accuracy - baseline.accuracy:+.1f}".replace("-", "−")
        tint = COLORS[number % len(COLORS)]
        axes.hlines(places + shift, low, high, color=tint, lw=0.7, alpha=0.6)
        axes.plot(
            each.points[shown].numpy(),
            places + shift,
            MARKERS[number % len(MARKERS)],
            ms=2.6,
            mew=0,
            color=tint,
            label=f"{network.name} ({gained})",
        )
    axes.axvline(0, color="black", lw=0.6, zorder=0.5)
    axes.set_yticks(places, [shorten(class_names[label], 14) for label in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[0] - 0.7, places[-1] + 0.7)
    axes.set_xlabel(f"accuracy gained over {baseline.name}, percentage points")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", color="#dddddd", lw=0.4)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=min(3, len(networks)))
    caption = _caption(networks, baseline, len(shown))
    tables = [_table(n.name, g, class_names) for n, g in zip(networks, gains, strict=True)]
    return FigureData("class_gain", figure, caption, pd.concat(tables))


def _caption(networks: Sequence[Responses], baseline: Responses, shown: int) -> str:
    classes = networks[0].logits.shape[1]
    part = f", the {shown} classes of {classes} that change most" if shown < classes else ""
    return (
        f"Accuracy of each class less that of {baseline.name} ({baseline.accuracy:.2f} %) on the "
        f"same {len(baseline.labels):,} test images{part}; in brackets over all classes. Lines: "
        "95 % confidence interval for paired proportions, which covers the choice of test images "
        "but not the variation between training seeds."
    )


def _table(network: str, gain: Gain, class_names: Sequence[str]) -> pd.DataFrame:
    low, high = gain.interval
    return pd.DataFrame(
        {
            "network": network,
            "class": class_names,
            "images": gain.count.long(),
            "won": gain.won.long(),
            "lost": gain.lost.long(),
            "gain_points": gain.points,  # missing for a class without images
            "from_points": low,
            "to_points": high,
        }
    )

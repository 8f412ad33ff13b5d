"""Which classes a method helps: accuracy of each class, less that of a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from distillers.figures.paper import COLOURS, MARKERS, Picture, panels, short
from distillers.figures.responses import Responses

MOST_NAMED = 40  # classes that each get a line; of more, the outermost are shown
EACH_END = 15


@dataclass(frozen=True, eq=False)
class Gain:
    """The images of each class that two networks judge differently, (k,) each.

    Attributes:
        count: images of the class.
        won: right by the network, wrong by the baseline.
        lost: the other way round.
    """

    count: Tensor
    won: Tensor
    lost: Tensor

    @property
    def points(self) -> Tensor:
        """(k,) accuracy less that of the baseline, in percentage points."""
        return 100 * (self.won - self.lost) / self.count

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """(k,) each, the ends of the 95 % confidence interval of `points`.

        Both networks judge the same images, so what varies is the images on which they differ:
        Wald's interval for paired shares with one image more won and one more lost (Bonett and
        Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
        Paired Data", Journal of Educational and Behavioral Statistics 37, 2012), which has a width
        where no image changed hands.
        """
        n, won, lost = self.count + 2, self.won + 1, self.lost + 1
        middle = (won - lost) / n
        margin = 1.959964 * (won + lost - (won - lost) ** 2 / n).sqrt() / n
        return 100 * (middle - margin), 100 * (middle + margin)


def gain(network: Responses, baseline: Responses) -> Gain:
    """Count, class by class.

    Args:
        network: its answers.
        baseline: those of the baseline, to the same images.
    """
    k = network.logits.shape[1]

    def count(which: Tensor) -> Tensor:
        return torch.bincount(network.labels[which], minlength=k).double()

    here, there = network.right, baseline.right
    return Gain(count(torch.ones_like(here)), count(here & ~there), count(there & ~here))


def draw(networks: Sequence[Responses], baseline: Responses, class_names: Sequence[str]) -> Picture:
    """A point and its interval for each class and network, the most helped class on top.

    Args:
        networks: answers of each.
        baseline: of the baseline, to the same images.
        class_names: one a class.
    """
    gains = [gain(each, baseline) for each in networks]
    mean = torch.stack([each.points for each in gains]).mean(0)
    order = mean.argsort(stable=True).tolist()
    shown = order if len(order) <= MOST_NAMED else order[:EACH_END] + order[-EACH_END:]
    figure, (axes,) = panels(1, columns=1, panel_height=0.5 + 0.13 * len(shown))
    places = np.arange(len(shown), dtype=float)
    if len(shown) < len(order):
        places[EACH_END:] += 1
        axes.axhline(EACH_END, color="#bbbbbb", lw=0.5, ls=":")
    step = 0.6 / len(networks)
    for number, (network, each) in enumerate(zip(networks, gains, strict=True)):
        shift = (number - (len(networks) - 1) / 2) * -step
        low, high = (end[shown].numpy() for end in each.interval)
        gained = f"{network.accuracy - baseline.accuracy:+.1f}".replace("-", "−")
        tint = COLOURS[number % len(COLOURS)]
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
    axes.set_yticks(places, [short(class_names[label], 14) for label in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[0] - 0.7, places[-1] + 0.7)
    axes.set_xlabel(f"accuracy gained over {baseline.name}, percentage points")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", color="#dddddd", lw=0.4)
    axes.set_axisbelow(True)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(networks)))
    return Picture("class_gain", figure, _caption(networks, baseline, len(shown)), _rows(
        networks, gains, class_names
    ))  # fmt: skip


def _caption(networks: Sequence[Responses], baseline: Responses, shown: int) -> str:
    classes = networks[0].logits.shape[1]
    part = f", the {shown} classes of {classes} that change most" if shown < classes else ""
    return (
        f"Accuracy of each class less that of {baseline.name} ({baseline.accuracy:.2f} %) on the "
        f"same {len(baseline.labels):,} test images{part}; in brackets over all classes. Lines: "
        "95 % confidence interval for paired shares; it knows of the choice of test images only, "
        "not of the seeds of training."
    )


def _rows(
    networks: Sequence[Responses], gains: Sequence[Gain], class_names: Sequence[str]
) -> list[dict[str, object]]:
    return [
        {
            "network": network.name,
            "class": name,
            "images": int(each.count[label]),
            "won": int(each.won[label]),
            "lost": int(each.lost[label]),
            "gain_points": float(each.points[label]) if each.count[label] else "",
            "from_points": float(each.interval[0][label]),
            "to_points": float(each.interval[1][label]),
        }
        for network, each in zip(networks, gains, strict=True)
        for label, name in enumerate(class_names)
    ]

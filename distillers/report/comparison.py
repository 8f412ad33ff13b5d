"""Comparison of two networks on the same test images, as a gate before one replaces the other."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F

from distillers.data.source import DataSource
from distillers.figures.calibration import expected_calibration_error
from distillers.figures.class_gain import Gain, count_gains
from distillers.report.evaluation import json_rows
from distillers.training.evaluate import count_classes
from distillers.training.predictions import Predictions


@dataclass(frozen=True)
class Comparison:
    """All figures of a comparison.

    Attributes:
        old: metrics of the old network by name: accuracies in percent, `ece` in [0, 1].
        new: those of the new network.
        num_images: number of test images.
        won: images that only the new network classifies correctly.
        lost: images that only the old network classifies correctly: the negative flips (Yan et al.,
            "Positive-Congruent Training: Towards Regression-Free Model Updates", CVPR 2021,
            https://arxiv.org/abs/2011.09161).
        p_value: see `mcnemar`.
        interval: ends of the 95 % interval of the difference of the accuracies in points.
        classes: a row for each class: class, images, old and new recall in percent, change and
            the ends of its 95 % interval in points, won, lost.
    """

    old: dict[str, float]
    new: dict[str, float]
    num_images: int
    won: int
    lost: int
    p_value: float
    interval: tuple[float, float]
    classes: pd.DataFrame

    @property
    def change(self) -> float:
        """Accuracy of the new network less that of the old one, in points."""
        return 100 * (self.won - self.lost) / self.num_images

    @property
    def negative_flips(self) -> float:
        """Images that only the old network classifies correctly, in percent of all."""
        return 100 * self.lost / self.num_images

    @property
    def largest_class_drop(self) -> tuple[str, float]:
        """The class that loses most, and how many points; 0 if none loses."""
        changes = self.classes["change"].fillna(0)
        row = int(changes.argmin())
        return str(self.classes["class"].iloc[row]), max(0.0, -float(changes.iloc[row]))

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        name, drop = self.largest_class_drop
        return {
            "old": self.old,
            "new": self.new,
            "images": self.num_images,
            "change": self.change,
            "change_interval": list(self.interval),
            "won": self.won,
            "lost": self.lost,
            "negative_flips": self.negative_flips,
            "mcnemar_p": self.p_value,
            "largest_class_drop": {"class": name, "points": drop},
            "classes": json_rows(self.classes),
        }


def compare(old: Predictions, new: Predictions, class_names: tuple[str, ...]) -> Comparison:
    """Compare two networks by their predictions for the same images."""
    labels = old.labels()
    before, after = old.classes() == labels, new.classes() == labels
    gains = count_gains(labels, after, before, len(class_names))
    total = Gain(*(each.sum()[None] for each in (gains.count, gains.won, gains.lost)))
    won, lost = int(total.won), int(total.lost)
    low, high = (float(end) for end in total.interval)
    return Comparison(
        old=metrics(old),
        new=metrics(new),
        num_images=len(labels),
        won=won,
        lost=lost,
        p_value=mcnemar(won, lost),
        interval=(low, high),
        classes=_classes(gains, labels[before], class_names),
    )


def mcnemar(won: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided, that both networks are equally right.

    Of the images that exactly one of them classifies correctly, each would be won with probability
    1/2; the binomial distribution is used for any number of them, not only for few (McNemar, "Note
    on the Sampling Error of the Difference between Correlated Proportions", Psychometrika 12,
    1947). See `Comparison` for `won` and `lost`.
    """
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def metrics(seen: Predictions) -> dict[str, float]:
    """Return accuracy and balanced accuracy in percent, mean loss, and calibration error."""
    classes, labels = seen.classes(), seen.labels()
    logits = seen.logits()
    return {
        "test_acc": seen.accuracy(),
        "balanced_acc": count_classes(classes, labels, logits.shape[1]).balanced_accuracy(),
        "test_loss": float(F.cross_entropy(logits.double(), labels)),
        "ece": expected_calibration_error(seen.confidence(), classes == labels),
        "mean_confidence": float(seen.confidence().mean()),
    }


def flips_table(old: Predictions, new: Predictions, source: DataSource) -> pd.DataFrame:
    """Return the images that exactly one network classifies correctly, the lost ones first.

    Columns: change ("lost" or "won"), path, label, old and new prediction.
    """
    labels, first, second = old.labels(), old.classes(), new.classes()
    names = np.array(source.class_names, dtype=object)
    parts = []
    for change, which in (
        ("lost", (first == labels) & (second != labels)),
        ("won", (first != labels) & (second == labels)),
    ):
        rows = old.rows()[which].tolist()
        columns = {"label": labels, "old": first, "new": second}
        named = {name: names[each[which].numpy()] for name, each in columns.items()}
        paths = [source.test_image_name(row) for row in rows]
        parts.append(pd.DataFrame({"change": change, "path": paths, **named}))
    return pd.concat(parts, ignore_index=True)


def _classes(gains: Gain, right_before: Tensor, class_names: tuple[str, ...]) -> pd.DataFrame:
    """Return the table of classes, those that lose most first."""
    before = right_before.bincount(minlength=len(class_names)).double()
    low, high = gains.interval
    table = pd.DataFrame(
        {
            "class": list(class_names),
            "images": gains.count.long(),
            "old": 100 * before / gains.count,  # missing for a class without images
            "new": 100 * (before + gains.won - gains.lost) / gains.count,
            "change": gains.points,
            "from": low,
            "to": high,
            "won": gains.won.long(),
            "lost": gains.lost.long(),
        }
    )
    return table.sort_values("change", kind="stable", ignore_index=True)

"""The figures of one evaluated network, each computed in one place for table, JSON and CSV."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.figures.calibration import expected_calibration_error
from distillers.models.profile import forward_seconds
from distillers.timing import LoadMeter
from distillers.training.evaluate import Score, count_classes
from distillers.training.predictions import Predictions

RESAMPLES = 1000
SEED = 0
BATCH_SIZES = (1, 8, 32)
PERCENTILES = (50, 90, 99)
INTERVAL = f"95 %, bootstrap of the images, {RESAMPLES} resamples, seed {SEED}"


@dataclass(frozen=True)
class Latency:
    """Time of a forward.

    Attributes:
        batch_size: images per forward.
        milliseconds: by percentile, for the whole batch.
        images_per_second: at the median.
    """

    batch_size: int
    milliseconds: dict[str, float]
    images_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of a network on test images.

    Attributes:
        metrics: by name, as `test_acc` in percent; `ece` and `auroc` are in [0, 1].
        intervals: ends of the 95 % interval of some metrics, by their names.
        classes: a row for each class: class, precision, recall, f1 in percent (missing where a
            class has no predictions, no images or neither), support, predicted.
        confusion: images by label (row) and prediction (column).
        latency: for each of `BATCH_SIZES`.
        load: note on programs that slowed the latency, or "".
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: pd.DataFrame
    confusion: pd.DataFrame
    latency: list[Latency]
    load: str

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON types, without the confusion matrix."""
        return {
            "metrics": self.metrics,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "interval": INTERVAL,
            "classes": json_rows(self.classes),
            "latency": [asdict(each) for each in self.latency],
            "load": self.load,
        }


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON types, with None for missing values (NaN)."""
    rows = table.to_dict("records")
    return [{str(k): None if v != v else v for k, v in row.items()} for row in rows]


def evaluation(
    score: Score, seen: Predictions, source: DataSource, net: nn.Module, image_size: int
) -> Evaluation:
    """Compute all figures of an evaluated network, and measure its latency.

    `score` and `seen` are of the same evaluation on `source`; `image_size` is in pixels.

    Raises:
        InputError: if an output is not finite; names the first image of which it is.
    """
    check_finite(seen, source)
    labels, classes = seen.labels(), seen.classes()
    part = source.test_part
    metrics = {
        f"{part}_acc": score.acc,
        f"{part}_acc_top5": score.acc_top5,
        f"{part}_loss": score.loss,
        "correct": score.correct,
        "balanced_acc": score.balanced_acc,
        "macro_f1": score.macro_f1,
        "ece": expected_calibration_error(seen.confidence(), classes == labels),
    }
    confusion = confusion_matrix(classes, labels, source.class_names)
    intervals = bootstrap(confusion.to_numpy())
    intervals[f"{part}_acc"] = intervals.pop("test_acc")
    if source.num_classes == 2 and len(labels.unique()) == 2:
        positive = seen.probabilities()[:, 1].numpy()
        metrics["auroc"], intervals["auroc"] = auroc(positive, labels.numpy())
    rows = per_class(classes, labels, source.class_names)
    return Evaluation(metrics, intervals, rows, confusion, *measure_latency(net, image_size))


def check_finite(seen: Predictions, source: DataSource) -> None:
    """Check that all outputs of a network are finite.

    Raises:
        InputError: naming the first image of which they are not.
    """
    bad = (~seen.logits().isfinite().all(1)).nonzero().flatten()
    if len(bad):
        name = source.test_image_name(int(seen.rows()[bad[0]]))
        raise InputError(
            f"the network's outputs are not finite for {len(bad)} images, the first is {name}; "
            "its weights or its number format are broken."
        )


def per_class(predictions: Tensor, labels: Tensor, class_names: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall and F1 in percent, support and predictions of each class.

    Predicted classes and labels are (n,) int64.
    """
    counts = count_classes(predictions, labels, len(class_names))
    right, predicted, support = (each.numpy() for each in counts)
    with np.errstate(invalid="ignore"):  # 0 / 0 is missing
        columns = {
            "precision": 100 * (right / predicted),
            "recall": 100 * (right / support),
            "f1": 100 * (2 * right / (predicted + support)),
        }
    counted = {"support": support.astype(int), "predicted": predicted.astype(int)}
    return pd.DataFrame({"class": list(class_names), **columns, **counted})


def confusion_matrix(
    predictions: Tensor, labels: Tensor, class_names: Sequence[str]
) -> pd.DataFrame:
    """Count images by label (row) and predicted class (column), both (n,) int64."""
    k = len(class_names)
    cells = (labels * k + predictions).bincount(minlength=k * k).reshape(k, k)
    return pd.DataFrame(cells.numpy(), index=list(class_names), columns=list(class_names))


def bootstrap(confusion: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile intervals of accuracy, balanced accuracy and macro-F1, in percent.

    Drawing images with replacement draws cells of the confusion matrix (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13); `confusion` (k, k) has the images by label and
    prediction.
    """
    label, predicted = confusion.nonzero()
    counts, k = confusion[label, predicted], len(confusion)
    total, is_right = int(counts.sum()), label == predicted
    rng = np.random.default_rng(SEED)
    values: dict[str, list[float]] = {"test_acc": [], "balanced_acc": [], "macro_f1": []}
    for _ in range(RESAMPLES):
        drawn = rng.multinomial(total, counts / total)
        support, guesses, right = (
            np.bincount(where, weights, k)
            for where, weights in ((label, drawn), (predicted, drawn), (label, drawn * is_right))
        )
        values["test_acc"].append(right.sum() / total)
        values["balanced_acc"].append((right[support > 0] / support[support > 0]).mean())
        either = support + guesses
        values["macro_f1"].append((2 * right[either > 0] / either[either > 0]).mean())
    return {name: _ends(100 * np.array(each)) for name, each in values.items()}


def auroc(positive: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Compute the area under the ROC curve, and its 95 % percentile interval over resamples.

    Resamples in which all images have one class are left out.

    Args:
        positive: (n,) probability of class 1.
        labels: (n,) 0 or 1, both at least once.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    rng = np.random.default_rng(SEED)
    rows = (rng.integers(0, len(labels), len(labels)) for _ in range(RESAMPLES))
    areas = [roc_auc_score(labels[r], positive[r]) for r in rows if 0 < labels[r].mean() < 1]
    return float(roc_auc_score(labels, positive)), _ends(np.array(areas))


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def measure_latency(net: nn.Module, image_size: int) -> tuple[list[Latency], str]:
    """Measure the percentiles of a forward at `BATCH_SIZES`, and the load of other programs."""
    meter = LoadMeter()
    seconds = forward_seconds({size: (net, image_size, size) for size in BATCH_SIZES})
    found = []
    for size, each in seconds.items():
        milliseconds = 1000 * np.percentile(each, PERCENTILES)
        named = {f"p{p}": float(ms) for p, ms in zip(PERCENTILES, milliseconds, strict=True)}
        found.append(Latency(size, named, 1000 * size / named["p50"]))
    return found, meter.warning()


def predictions_table(seen: Predictions, source: DataSource) -> pd.DataFrame:
    """Return path, label, prediction and the probability of each class, a row for each image."""
    names = np.array(source.class_names, dtype=object)
    head = {
        "path": [source.test_image_name(row) for row in seen.rows().tolist()],
        "label": names[seen.labels().numpy()],
        "prediction": names[seen.classes().numpy()],
    }
    columns = [f"p({name})" for name in names]
    chances = pd.DataFrame(seen.probabilities().numpy(), columns=columns)
    return pd.concat([pd.DataFrame(head), chances], axis=1)

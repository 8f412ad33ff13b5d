"""Audit teachers before they teach: accuracy, calibration, probable label errors, agreement."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from distillers.data.source import DataSource
from distillers.figures.calibration import expected_calibration_error
from distillers.report.evaluation import check_finite, json_rows, per_class
from distillers.report.formatting import MISSING
from distillers.report.html import page_environment, template_source
from distillers.training.predictions import Predictions, agreement

TEMPERATURES = (0.05, 20.0)  # ends of the range that is searched
SHOWN = 48  # suspects
SIDE = 112  # pixels of a picture on the page


def audit(names: Sequence[str], seen: Sequence[Predictions], source: DataSource) -> dict[str, Any]:
    """Return all figures of an audit of named teachers, as JSON types.

    `seen` has the predictions of each for the test images of `source`, in the same order.

    Returns:
        "teachers": for each `teacher_figures`; "suspects": see `suspects`; "agreement": percent of
        the images of which two teachers predict the same class, for each pair; "together": accuracy
        of the mean of the teachers' probabilities, and of how many percent of the images all
        teachers agree, with the accuracy there.

    Raises:
        InputError: if an output is not finite.
    """
    for each in seen:
        check_finite(each, source)
    figures = [teacher_figures(name, each, source) for name, each in zip(names, seen, strict=True)]
    found: dict[str, Any] = {
        "dataset": source.name,
        "images": len(seen[0].labels()),
        "class_names": list(source.class_names),
        "teachers": figures,
        "suspects": suspects(seen, source),
    }
    if len(seen) > 1:
        found["agreement"] = [[agreement(one, other) for other in seen] for one in seen]
        found["together"] = _together(seen)
    return found


def teacher_figures(name: str, seen: Predictions, source: DataSource) -> dict[str, Any]:
    """Return accuracy and calibration of one teacher, altogether and for each class.

    Percentages are in 0 to 100, the calibration error `ece` in 0 to 1. `temperature` is what the
    logits must be divided by for the lowest cross-entropy (Guo et al., 2017,
    https://arxiv.org/abs/1706.04599, section 4.2); `ece_at_temperature` and `loss_at_temperature`
    are those of the divided logits.
    """
    labels, classes, logits = seen.labels(), seen.classes(), seen.logits().double()
    confidence, correct = seen.confidence(), classes == labels
    temperature = calibrating_temperature(logits, labels)
    cooled = (logits / temperature).softmax(1).gather(1, classes[:, None])[:, 0]
    rows = json_rows(per_class(classes, labels, source.class_names))
    for number, row in enumerate(rows):
        is_class = labels == number
        row |= {"confidence": None, "ece": None}
        if bool(is_class.any()):
            row["confidence"] = 100 * float(confidence[is_class].mean())
            row["ece"] = expected_calibration_error(confidence[is_class], correct[is_class])
    return {
        "name": name,
        "accuracy": seen.accuracy(),
        "confidence": 100 * float(confidence.mean()),
        "loss": float(F.cross_entropy(logits, labels)),
        "ece": expected_calibration_error(confidence, correct),
        "temperature": temperature,
        "loss_at_temperature": float(F.cross_entropy(logits / temperature, labels)),
        "ece_at_temperature": expected_calibration_error(cooled, correct),
        "classes": rows,
    }


def calibrating_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature at which logits / T (n, k) have the lowest cross-entropy.

    It is searched between 0.05 and 20; for a teacher that is always right it is far below 1.
    """
    low, high = (math.log(each) for each in TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: float(F.cross_entropy(logits.double() / math.exp(log_t), labels)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def suspects(seen: Sequence[Predictions], source: DataSource) -> list[dict[str, Any]]:
    """Return the images whose labels are the least probable, according to the teachers' mean.

    An image is a suspect if the class with the highest mean probability is not its label. They are
    ordered by the probability of that class minus that of the label, as is usual for finding label
    errors (Northcutt, Jiang and Chuang, 2021, https://arxiv.org/abs/1911.00068, section 3.2).
    """
    chances = torch.stack([each.probabilities() for each in seen]).mean(0)
    labels, rows = seen[0].labels(), seen[0].rows()
    confidence, classes = chances.max(1)
    of_label = chances.gather(1, labels[:, None])[:, 0]
    margin = torch.where(classes == labels, -1.0, confidence - of_label)
    order = margin.argsort(descending=True, stable=True)[:SHOWN]
    return [
        {
            "row": int(rows[i]),
            "image": source.test_image_name(int(rows[i])),
            "label": source.class_names[int(labels[i])],
            "prediction": source.class_names[int(classes[i])],
            "confidence": 100 * float(confidence[i]),
            "label_probability": 100 * float(of_label[i]),
            "teachers": sum(int(each.classes()[i] == classes[i]) for each in seen),
        }
        for i in order.tolist()
        if margin[i] >= 0
    ]


def pictures(source: DataSource, rows: Iterable[int], device: torch.device) -> dict[int, Tensor]:
    """Return test images by row, as they are shown to a network: (3, h, w) uint8."""
    wanted, found = set(rows), {}
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (source.mean, source.std))
    for batch in source.test_loader(device).epoch(1) if wanted else ():
        for image, row in zip(batch.images, batch.index.tolist(), strict=True):
            if row in wanted:
                pixels = 255 * (image.cpu() * std + mean)
                found[row] = pixels.round().clamp(0, 255).to(torch.uint8)
    return found


def _together(seen: Sequence[Predictions]) -> dict[str, float | None]:
    labels = seen[0].labels()
    mean = torch.stack([each.probabilities() for each in seen]).mean(0)
    first = seen[0].classes()
    same = torch.stack([each.classes() == first for each in seen]).all(0)
    right = first == labels
    return {
        "accuracy": 100 * float((mean.argmax(1) == labels).double().mean()),
        "unanimous": 100 * float(same.double().mean()),
        "unanimous_accuracy": 100 * float(right[same].double().mean()) if same.any() else None,
    }


def render_audit(found: Mapping[str, Any], images: Mapping[int, Tensor]) -> str:
    """Render a self-contained page of the result of `audit`, from `templates/audit.html`.

    `images` has the pictures of the suspects by row, (3, h, w) uint8.
    """
    environment = page_environment()
    environment.filters["fixed"] = _fixed
    return environment.get_template("audit.html").render(
        found=found,
        css=template_source(environment, "page.css"),
        pictures={row: data_uri(image) for row, image in images.items()},
    )


def data_uri(image: Tensor) -> str:
    """Return a picture (3, h, w) uint8 as a PNG in a data URI, at most 112 pixels wide and high."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _fixed(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"

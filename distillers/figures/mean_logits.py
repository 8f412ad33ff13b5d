"""Difference of the mean logits of student and teacher by true class.

Public scripts call this matrix a correlation, which it is not: scaling a student's logits by two
changes it, but not `distillers.figures.correlation`. It is the absolute difference of the mean
logit of each class over the test images of each true class, (k, k), with a zero diagonal; the
scripts print its largest and its mean entry.
"""

from collections.abc import Sequence

import torch
from pandas import DataFrame
from torch import Tensor

from distillers.errors import InputError
from distillers.figures.correlation import plot_matrices
from distillers.figures.paper import FigureData
from distillers.figures.responses import Responses


def mean_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean of logits (n, k) over the images of each class, (k, k), one row a class.

    Raises:
        InputError: if a class has no image.
    """
    k = logits.shape[1]
    counts = torch.bincount(labels, minlength=k)
    if not bool((counts > 0).all()):
        raise InputError(f"class {int(counts.argmin())} has no image.")
    sums = torch.zeros(k, k, dtype=torch.float64).index_add_(0, labels, logits.double())
    return sums / counts[:, None]


def plot(
    teacher: Responses, students: Sequence[Responses], class_names: Sequence[str]
) -> FigureData:
    """Plot one matrix of absolute differences of the mean logits for each student."""
    reference = mean_logits(teacher.logits, teacher.labels)
    matrices, largest, rows = {}, [], []
    for student in students:
        own = mean_logits(student.logits, student.labels)
        matrix = (own - reference).abs().fill_diagonal_(0)
        matrices[f"{student.name} ({float(matrix.mean()):.2f})"] = matrix
        largest.append(f"{student.name} {float(matrix.max()):.2f}")
        rows += [
            {
                "network": student.name,
                "true_class": class_names[c],
                "logit_of": class_names[j],
                "student_mean_logit": float(own[c, j]),
                "teacher_mean_logit": float(reference[c, j]),
            }
            for c in range(len(own))
            for j in range(len(own))
        ]
    figure = plot_matrices(
        matrices, class_names, signed=False, label="mean logit, |student − teacher|"
    )
    caption = (
        "Mean logit of each class (columns) over the test images of each true class (rows), "
        f"absolute difference of student and teacher ({teacher.name}), diagonal set to zero; "
        f"{len(teacher.labels):,} test images. This is what public scripts call a correlation "
        f"matrix; it is none. In brackets the mean entry; largest entry: {', '.join(largest)}."
    )
    return FigureData("mean_logits", figure, caption, DataFrame(rows))

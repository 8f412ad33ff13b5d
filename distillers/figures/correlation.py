"""Difference of the class-logit correlations of student and teacher.

As in Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020,
https://arxiv.org/abs/1910.10699: the paler the matrix, the more of the teacher's class similarities
the student has learned. Public scripts plot another quantity under this name; see `mean_logits`.
"""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from distillers.errors import InputError
from distillers.figures.paper import FigureData, make_panels, num_columns
from distillers.figures.responses import Responses

MAX_CLASS_NAMES = 20  # that fit beside a matrix


def class_correlation(logits: Tensor) -> Tensor:
    """Compute Pearson's correlation of the logits of every two classes, (k, k) float64.

        r_ab = sum_i (z_ia - m_a)(z_ib - m_b) / sqrt(sum_i (z_ia - m_a)^2 sum_i (z_ib - m_b)^2)

    with m the means over the images. Invariant to a shift and a positive scale of each class.

    Args:
        logits: (n, k), n at least 2.

    Raises:
        InputError: if the logit of a class is constant.
    """
    centered = logits.double() - logits.double().mean(0)
    length = centered.norm(dim=0)
    if not bool((length > 0).all()):
        raise InputError(f"the logit of class {int(length.argmin())} is the same for all images.")
    unit = centered / length
    return unit.T @ unit


def mean_difference(matrix: Tensor) -> float:
    """Return the mean absolute off-diagonal entry of a (k, k) matrix."""
    k = len(matrix)
    return float((matrix.abs().sum() - matrix.diagonal().abs().sum()) / (k * (k - 1)))


def plot(
    teacher: Responses, students: Sequence[Responses], class_names: Sequence[str]
) -> FigureData:
    """Plot one matrix of student minus teacher correlations for each student."""
    reference = class_correlation(teacher.logits)
    matrices = [class_correlation(each.logits) - reference for each in students]
    pairs = list(zip(students, matrices, strict=True))
    figure = plot_matrices(
        {f"{student.name} ({mean_difference(matrix):.3f})": matrix for student, matrix in pairs},
        class_names,
        signed=True,
        label="correlation, student − teacher",
    )
    rows = [
        {
            "network": student.name,
            "class_a": class_names[a],
            "class_b": class_names[b],
            "student_correlation": float(matrix[a, b] + reference[a, b]),
            "teacher_correlation": float(reference[a, b]),
            "difference": float(matrix[a, b]),
        }
        for student, matrix in pairs
        for a in range(len(class_names))
        for b in range(a + 1, len(class_names))
    ]
    caption = (
        f"Class-logit correlation, student minus teacher ({teacher.name}): Pearson's correlation "
        f"of the logits of every two classes over {len(teacher.labels):,} test images. In brackets "
        "the mean absolute difference outside of the diagonal."
    )
    return FigureData("correlation", figure, caption, DataFrame(rows))


def plot_matrices(
    matrices: Mapping[str, Tensor],
    class_names: Sequence[str],
    *,
    signed: bool,
    label: str,
) -> Figure:
    """Plot (k, k) matrices by title, in panels with one color scale up to the largest entry."""
    columns = num_columns(len(matrices))
    height = {1: 2.6, 2: 1.6, 3: 1.15}[columns]
    figure, axes = make_panels(len(matrices), panel_height=height, extra=0.45)
    largest = max(float(matrix.abs().max()) for matrix in matrices.values())
    for number, (panel, (title, matrix)) in enumerate(zip(axes, matrices.items(), strict=True)):
        panel.imshow(
            matrix.numpy(),
            cmap="PuOr" if signed else "cividis",
            vmin=-largest if signed else 0,
            vmax=largest,
        )
        panel.set_title(title)
        panel.set_xticks([])
        panel.set_yticks([])
        if len(class_names) <= MAX_CLASS_NAMES and number % columns == 0:
            panel.set_yticks(range(len(class_names)), class_names, fontsize=5.5)
            panel.tick_params(length=0)
    shown = axes[0].images[0]  # all have its scale
    bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.7, aspect=30, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    return figure

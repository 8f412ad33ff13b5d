"""How a student's logits of two classes go together, against how its teacher's do.

Drawn as in Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020,
https://arxiv.org/abs/1910.10699: a student that took over what the teacher knows of the likeness of
classes shows a pale picture. What public scripts draw under this name is something else; see
`mean_logits`.
"""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from distillers.errors import InputError
from distillers.figures.paper import Picture, panels
from distillers.figures.responses import Responses

MOST_NAMED = 20  # classes whose names fit beside a matrix
COLUMNS = 3


def class_correlation(logits: Tensor) -> Tensor:
    """Pearson's correlation of the logits of every two classes over images, (k, k) float64.

        r_ab = sum_i (z_ia - m_a)(z_ib - m_b) / sqrt(sum_i (z_ia - m_a)^2 sum_i (z_ib - m_b)^2)

    with m the means over the images. A shift or a positive scale of a class's logits changes
    nothing.

    Args:
        logits: (n, k), n at least 2.

    Raises:
        InputError: when a class has the same logit for all images, which correlates with nothing.
    """
    centred = logits.double() - logits.double().mean(0)
    length = centred.norm(dim=0)
    if not bool((length > 0).all()):
        raise InputError(f"the logit of class {int(length.argmin())} is the same for all images.")
    unit = centred / length
    return unit.T @ unit


def mean_difference(matrix: Tensor) -> float:
    """The mean absolute entry of (k, k) outside of the diagonal."""
    k = len(matrix)
    return float((matrix.abs().sum() - matrix.diagonal().abs().sum()) / (k * (k - 1)))


def draw(teacher: Responses, students: Sequence[Responses], class_names: Sequence[str]) -> Picture:
    """Student minus teacher, one matrix a student, all on one scale.

    Args:
        teacher: its answers.
        students: those of each student, to the same images.
        class_names: one a class.
    """
    reference = class_correlation(teacher.logits)
    matrices = [class_correlation(each.logits) - reference for each in students]
    figure = matrices_of(
        matrices,
        [f"{s.name} ({mean_difference(m):.3f})" for s, m in zip(students, matrices, strict=True)],
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
        for student, matrix in zip(students, matrices, strict=True)
        for a in range(len(class_names))
        for b in range(a + 1, len(class_names))
    ]
    caption = (
        f"Class-logit correlation, student minus teacher ({teacher.name}): Pearson's correlation "
        f"of the logits of every two classes over {len(teacher.labels):,} test images. In brackets "
        "the mean absolute difference outside of the diagonal."
    )
    return Picture("correlation", figure, caption, rows)


def matrices_of(
    matrices: Sequence[Tensor],
    titles: Sequence[str],
    class_names: Sequence[str],
    *,
    signed: bool,
    label: str,
) -> Figure:
    """Panels of (k, k) matrices with one colour scale that reaches to the largest entry.

    Args:
        matrices: one a panel.
        titles: likewise.
        class_names: written at the left where there are few.
        signed: whether zero is the middle of the scale, or its beginning.
        label: of the scale.
    """
    few = len(class_names) <= MOST_NAMED
    columns = 2 if len(matrices) in (2, 4) else COLUMNS
    height = 1.15 if min(len(matrices), columns) == 3 else 1.6
    height = 2.6 if len(matrices) == 1 else height
    figure, axes = panels(len(matrices), columns=columns, panel_height=height, extra=0.45)
    largest = max(float(torch.as_tensor(matrix).abs().max()) for matrix in matrices)
    image: AxesImage | None = None
    for number, (panel, matrix) in enumerate(zip(axes, matrices, strict=True)):
        image = panel.imshow(
            matrix.numpy(),
            cmap="PuOr" if signed else "cividis",
            vmin=-largest if signed else 0,
            vmax=largest,
        )
        panel.set_title(titles[number])
        panel.set_xticks([])
        panel.set_yticks([])
        if few and number % columns == 0:
            panel.set_yticks(range(len(class_names)), class_names, fontsize=5.5)
            panel.tick_params(length=0)
    assert image is not None  # there is a student
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.7, aspect=30, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    return figure

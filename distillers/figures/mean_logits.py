"""The matrix that public scripts draw as "correlation", under a name that says what it is.

It is the mean logit of each class over the test images of each true class, k x k, and of it the
absolute difference of teacher and student with the diagonal set to zero; the scripts print its
largest and its mean entry. No correlation is computed: a student whose logits are the teacher's
times two is far away here and the same in `distillers.figures.correlation`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillers.errors import InputError
from distillers.figures.correlation import matrices_of
from distillers.figures.paper import Picture
from distillers.figures.responses import Responses


def mean_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """(k, k) float64: row c is the mean of the logits of the images whose label is c.

    Args:
        logits: (n, k).
        labels: (n,) int64.

    Raises:
        InputError: when a class has no image.
    """
    k = logits.shape[1]
    counts = torch.bincount(labels, minlength=k)
    if not bool((counts > 0).all()):
        raise InputError(f"class {int(counts.argmin())} has no image.")
    sums = torch.zeros(k, k, dtype=torch.float64).index_add_(0, labels, logits.double())
    return sums / counts[:, None]


def draw(teacher: Responses, students: Sequence[Responses], class_names: Sequence[str]) -> Picture:
    """|student - teacher| of the mean logits, one matrix a student, all on one scale.

    Args:
        teacher: its answers.
        students: those of each student, to the same images.
        class_names: one a class.
    """
    reference = mean_logits(teacher.logits, teacher.labels)
    matrices, rows = [], []
    for student in students:
        own = mean_logits(student.logits, student.labels)
        matrices.append((own - reference).abs().fill_diagonal_(0))
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
    figure = matrices_of(
        matrices,
        [f"{s.name} ({float(m.mean()):.2f})" for s, m in zip(students, matrices, strict=True)],
        class_names,
        signed=False,
        label="mean logit, |student − teacher|",
    )
    largest = ", ".join(
        f"{s.name} {float(m.max()):.2f}" for s, m in zip(students, matrices, strict=True)
    )
    caption = (
        "Mean logit of each class (columns) over the test images of each true class (rows), "
        f"absolute difference of student and teacher ({teacher.name}), diagonal set to zero; "
        f"{len(teacher.labels):,} test images. This is what public scripts call a correlation "
        f"matrix; it is none. In brackets the mean entry; largest entry: {largest}."
    )
    return Picture("mean_logits", figure, caption, rows)

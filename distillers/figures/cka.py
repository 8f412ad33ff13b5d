"""Linear CKA: similarity of the representations of two networks, stage by stage.

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited", ICML
2019, https://arxiv.org/abs/1905.00414; from batches as in Nguyen, Raghu and Kornblith, "Do Wide and
Deep Networks Learn the Same Things?", ICLR 2021, https://arxiv.org/abs/2010.15327.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from pandas import DataFrame
from torch import Tensor

from distillers.data.batch import Batch
from distillers.errors import InputError
from distillers.figures.paper import WIDTH, FigureData, make_panels, num_columns
from distillers.figures.responses import Network, read_features

MIN_IMAGES = 4  # in a batch; the estimate divides by n - 3


def unbiased_hsic(grams: Tensor) -> Tensor:
    """Compute the unbiased HSIC_1 of Song et al. 2012 (JMLR 13, equation 5) of every pair, (p, p).

    For two matrices K, L with zero diagonals it is

        (tr(K L) + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(K L) / (n - 2)) / (n (n - 3))

    `grams` (p, n, n) are Gram matrices of p representations of n images, n at least 4.
    """
    n = grams.shape[1]
    grams = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    flat, rows = grams.flatten(1), grams.sum(2)
    sums = rows.sum(1)
    means = sums[:, None] * sums / ((n - 1) * (n - 2))
    return (flat @ flat.T + means - 2 * rows @ rows.T / (n - 2)) / (n * (n - 3))


class CKA:
    """Minibatch linear CKA of every pair of p representations.

        CKA(X, Y) = sum HSIC(X, Y) / sqrt(sum HSIC(X, X) sum HSIC(Y, Y))

    The sums run over batches, weighted by their size. Because HSIC is estimated without bias, the
    size of shuffled batches only affects the noise; batches of a single class would ignore
    differences between classes. Batches of fewer than four images are skipped. CKA is 1 for
    representations that are equal up to rotation and scale; for unrelated representations the
    estimate may be negative.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self.num_images = 0

    def add(self, representations: Sequence[Tensor]) -> None:
        """Add a batch of n images, each representation (n, ...)."""
        n = len(representations[0])
        if n < MIN_IMAGES:
            return
        values = n * unbiased_hsic(torch.stack([_gram(each) for each in representations]))
        self._sums = values if self._sums is None else self._sums + values
        self.num_images += n

    def matrix(self) -> Tensor:
        """Return the similarities, (p, p) float64.

        Raises:
            InputError: if no batch had four images.
        """
        if self._sums is None:
            raise InputError(f"CKA needs a batch of at least {MIN_IMAGES} images.")
        own = self._sums.diagonal().sqrt()
        return self._sums / (own[:, None] * own)


def _gram(values: Tensor) -> Tensor:
    """Compute the Gram matrix of centered features, (n, n) float64.

    Centering does not change the estimate but improves its precision.
    """
    flat = values.flatten(1)
    flat = flat - flat.mean(0)
    return (flat @ flat.T).double()


class Stages(NamedTuple):
    """Names of the compared representations of a network, from the first stage to the logits."""

    network: str
    names: tuple[str, ...]


@torch.no_grad()
def compare(networks: Sequence[Network], batches: Iterable[Batch]) -> tuple[CKA, list[Stages]]:
    """Compare stage maps, pooled features and logits of networks on one shuffled pass of batches.

    Returns:
        the similarities; and the stages of each network in the order of the matrix.
    """
    result, stages = CKA(), []
    for _, features in read_features(networks, list(map(_kinds, networks)), batches):
        found, stages = [], []
        for network, read in zip(networks, features, strict=True):
            named = {f"stage {i}": values for i, values in enumerate(read.get("maps", ()), 1)}
            named |= {kind: read[kind] for kind in ("pooled", "logits") if kind in read}
            stages.append(Stages(network.name, tuple(named)))
            found += named.values()
        result.add(found)
    return result, stages


def _kinds(network: Network) -> list[str]:
    return [kind for kind in ("maps", "pooled") if network.taps.places(kind)] + ["logits"]


def plot(similarity: CKA, stages: Sequence[Stages]) -> FigureData:
    """Plot the similarities from `compare`, the teacher first: one matrix for each student."""
    matrix = similarity.matrix().cpu()
    teacher, students = stages[0], stages[1:]
    columns = num_columns(len(students))
    cell = (WIDTH - 0.8) / columns / max(len(each.names) for each in students)
    height = cell * len(teacher.names) + 0.65  # room for titles and labels
    figure, axes = make_panels(len(students), panel_height=height)
    rows: list[tuple[str, str, str, float]] = []
    start = len(teacher.names)
    for number, (panel, student) in enumerate(zip(axes, students, strict=True)):
        block = matrix[: len(teacher.names), start : start + len(student.names)]
        start += len(student.names)
        panel.imshow(block.numpy(), "cividis", vmin=0, vmax=1, origin="lower")
        panel.set_title(student.network)
        panel.set_xticks(range(len(student.names)), student.names, rotation=90)
        panel.set_yticks(range(len(teacher.names)), teacher.names if not number % columns else ())
        panel.tick_params(length=0)
        if number % columns == 0:
            panel.set_ylabel(teacher.network)
        rows += _annotate(panel, block, teacher, student)
    caption = (
        f"Linear CKA (Kornblith et al., 2019) of each student's stages (columns) with those of the "
        f"teacher {teacher.network} (rows), from the unbiased HSIC of batches (Nguyen et al., "
        f"2021), {similarity.num_images:,} test images. 1: equal up to rotation and scale."
    )
    table = DataFrame(rows, columns=["network", "teacher_place", "student_place", "cka"])
    return FigureData("cka", figure, caption, table)


def _annotate(
    panel: Axes, block: Tensor, teacher: Stages, student: Stages
) -> list[tuple[str, str, str, float]]:
    """Annotate the cells with their values and return the rows of the table."""
    rows = []
    for i, place in enumerate(teacher.names):
        for j, other in enumerate(student.names):
            value = float(block[i, j])
            text = "1" if value >= 0.995 else f"{value:.2f}".replace("0.", ".", 1)
            ink = "white" if value < 0.5 else "black"
            panel.text(j, i, text, ha="center", va="center", color=ink, fontsize=5.5)
            rows.append((student.network, place, other, value))
    return rows

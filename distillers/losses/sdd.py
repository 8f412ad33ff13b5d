"""SDD: a loss between logits, applied to the logits of regions of the image."""

from typing import Literal

import torch
from torch import Tensor, nn

from distillers.losses.dkd import DKD
from distillers.losses.nkd import NKD
from distillers.losses.ops import require
from distillers.losses.ops.divergence import softened_divergence
from distillers.losses.ops.feature_maps import downsample
from distillers.losses.ops.numerics import at_least_fp32
from distillers.losses.ops.schedule import linear_ramp

GRID = 4  # regions are averages of cells of this grid


class SDD(nn.Module):
    """KD, DKD or NKD of the classifier's logits for each region of the image.

    "Scale Decoupled Distillation", Wei, Luo and Luo, 2024, https://arxiv.org/abs/2403.13512.

        sum over images and regions of w(region) loss(teacher, student) / (n R)

    The last map is averaged to a grid of 4 x 4, and this to grids of m x m, m in `scales`; the
    classifier gives logits for each of the R cells. w is `complementary` where the teacher is right
    for the cell and wrong for the whole grid, or the reverse, else 1. Published with the weights of
    the loss inside (KD: 0.9 with a cross-entropy of 0.1), scales 1 and 2 within a family of
    networks, 1, 2 and 4 for mixed pairs.

    The grid of one cell is the whole image, so this replaces KD, DKD or NKD of the logits: another
    loss that compares the logits of both networks is refused beside it. The public NKD keeps the
    label among the other classes; here it is NKD.

    Args:
        base: loss of each region, "kd", "dkd" or "nkd".
        scales: the grids, 1 to 4 cells wide.
        complementary: w of the cells in which the teacher differs from the whole.
        temperature: of the loss of each region.
        alpha: alpha of DKD.
        beta: beta of DKD.
        gamma: gamma of NKD.
        ramp: fraction of the training during which the loss is scaled linearly from 0 to 1.

    Attributes:
        sole_reader_of: what no other loss may read beside this one.
    """

    sole_reader_of: tuple[str, ...] = ("student_logits", "teacher_logits")

    def __init__(
        self,
        *,
        base: Literal["kd", "dkd", "nkd"] = "kd",
        scales: tuple[int, ...] = (1, 2),
        complementary: float = 2.0,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        gamma: float = 1.5,
        ramp: float = 0.0,
    ) -> None:
        require.choice(("kd", "dkd", "nkd"), base=base)
        if not scales or not all(1 <= scale <= GRID for scale in scales):
            raise ValueError(f"scales is {scales}; it must name grids of 1 to {GRID} cells.")
        require.positive(temperature=temperature)
        require.non_negative(complementary=complementary, alpha=alpha, beta=beta, gamma=gamma)
        require.fraction(ramp=ramp)
        super().__init__()
        self.base = base
        self.scales = scales
        self.complementary = complementary
        self.temperature = temperature
        self.ramp = ramp
        self.dkd = DKD(alpha=alpha, beta=beta, temperature=temperature)
        self.nkd = NKD(gamma=gamma, temperature=temperature)

    def forward(
        self,
        student_logits: Tensor,
        student_class_maps: Tensor,
        teacher_logits: Tensor,
        teacher_class_maps: Tensor,
        labels: Tensor,
        progress: float = 1.0,
    ) -> Tensor:
        """Compute the loss from logits (n, k), class maps (n, k, h, w) and labels (n,)."""
        student = self.regions(student_logits, student_class_maps)
        teacher = self.regions(teacher_logits, teacher_class_maps).detach()
        is_right = teacher.argmax(dim=2) == labels[:, None]
        weight = torch.where(is_right != is_right[:, :1], self.complementary, 1.0)[:, 1:]
        every = labels.repeat_interleave(weight.shape[1])
        rows = self.of_rows(student[:, 1:].flatten(0, 1), teacher[:, 1:].flatten(0, 1), every)
        loss = (weight.flatten() * rows).mean()
        return loss * linear_ramp(progress, self.ramp)

    def regions(self, logits: Tensor, maps: Tensor) -> Tensor:
        """Return the logits (n, 1 + R, k) of the whole and of each cell.

        They are those of class maps (n, k, h, w), with the bias that logits (n, k) show.
        """
        maps = at_least_fp32(maps)
        bias = at_least_fp32(logits) - maps.mean((2, 3))
        grid = downsample(maps, (GRID, GRID))
        cells = [downsample(grid, (scale, scale)).flatten(2) for scale in (1, *self.scales)]
        return (torch.cat(cells, dim=2) + bias[:, :, None]).transpose(1, 2)

    def of_rows(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each region (r,), from two sets of logits (r, k) and labels (r,)."""
        if self.base == "nkd":
            return self.nkd.rows(student, teacher, labels)
        if self.base == "dkd":
            return self.temperature**2 * self.dkd.rows(student, teacher, labels)
        return self.temperature**2 * softened_divergence(student, teacher, self.temperature)

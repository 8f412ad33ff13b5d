"""Standardize the embeddings of a teacher by one rotation and one scale: PHI-S."""

import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from distillers.distillation.heads.moments import mean_of, scatter_of
from distillers.errors import InputError


class PhiS(nn.Module):
    """Map embeddings x to A (x - m), so that every dimension has mean 0 and variance 1.

    "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation", Ranzinger, Barker,
    Heinrich, Molchanov, Catanzaro and Tao, 2024, https://arxiv.org/abs/2410.01680. With the
    eigenvectors U and eigenvalues e of the covariance, A = R U^T / sqrt(mean e), where the rotation
    R spreads the variance evenly over the dimensions: distances between embeddings keep their
    ratios, and teachers of different scales weigh alike. R is the normalized Hadamard matrix where
    the width is a power of two; otherwise it is made of plane rotations, each of which gives one
    dimension the mean variance, so that any width is exact; the paper takes Hadamard matrices of
    other constructions. `mean` is m (d,), and `matrix` is A (d, d).
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("matrix", matrix.float())

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return standardized embeddings (n, d)."""
        return (embeddings - self.mean) @ self.matrix.T


def fit_phi_s(embeddings: Tensor) -> PhiS:
    """Return the standardization of embeddings (N, d), N > 1.

    Raises:
        InputError: if they are all equal or not finite.
    """
    mean, matrix = statistics(embeddings)
    if not bool(torch.isfinite(matrix).all()):
        raise InputError("the teacher's embeddings are all equal or not finite.")
    return PhiS(mean, matrix)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return m (d,) and A (d, d) in float64 of embeddings (N, d)."""
    mean = mean_of(x)
    eigenvalues, vectors = torch.linalg.eigh(scatter_of(x, mean) / len(x))
    eigenvalues = eigenvalues.clamp(min=0)
    rotation = _equalizing_rotation(eigenvalues)
    return mean, rotation @ vectors.T / eigenvalues.mean().sqrt()


def _equalizing_rotation(variances: Tensor) -> Tensor:
    """Return a rotation (d, d) after which independent dimensions have equal variances."""
    width = len(variances)
    if width & (width - 1) == 0:
        return torch.from_numpy(hadamard(width)).to(variances) / width**0.5
    rotation = torch.eye(width, dtype=variances.dtype)
    covariance, target = torch.diag(variances.cpu()), float(variances.mean())
    for _ in range(width - 1):
        own = covariance.diagonal()
        low, high = int(own.argmin()), int(own.argmax())
        if float(own[high] - own[low]) <= 1e-12 * target:
            break
        plane = _plane_rotation(covariance, low, high, target)
        rows = [low, high]
        rotation[rows] = plane @ rotation[rows]
        covariance[rows] = plane @ covariance[rows]
        covariance[:, rows] = covariance[:, rows] @ plane.T
    return rotation.to(variances)


def _plane_rotation(covariance: Tensor, low: int, high: int, target: float) -> Tensor:
    """Return the rotation (2, 2) of two dimensions that gives the first the variance `target`."""
    a, b, c = covariance[low, low], covariance[high, high], covariance[low, high]
    # a cos^2 + 2 c cos sin + b sin^2 = target, divided by cos^2, for t = tan.
    root = (c.square() - (b - target) * (a - target)).clamp(min=0).sqrt()
    tangent = (-c + root) / (b - target)
    cos = 1 / (1 + tangent.square()).sqrt()
    sin = tangent * cos
    return torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])

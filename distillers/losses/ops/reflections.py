"""Matrices with orthonormal columns, as products of Householder reflections."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.precision import no_autocast


class Reflections(nn.Module):
    """Parametrization of (m, k) matrices with orthonormal columns, or rows if m < k.

    The parameter holds the vectors of k reflections below its diagonal, and the signs of the
    columns on it, which have no gradient. This is the map "householder" of
    `torch.nn.utils.parametrizations.orthogonal` without trivialization, which would add an (m, m)
    matrix. The product of the reflections is I - V T V', where the inverse of T is the upper
    triangle of V'V with half its diagonal: "Accumulating Householder transformations, revisited",
    Joffrain, Low, Quintana-Orti, van de Geijn and van Zee, 2006,
    https://doi.org/10.1145/1141885.1141886. So the gradient takes a few matrix products instead of
    a loop over the columns.
    """

    def forward(self, packed: Tensor) -> Tensor:
        """Return the matrix (m, k) of a parameter (m, k)."""
        tall = packed if packed.shape[0] >= packed.shape[1] else packed.mT
        identity = torch.eye(*tall.shape, dtype=tall.dtype, device=tall.device)
        with no_autocast(tall):
            vectors = tall.tril(-1) + identity
            products = (vectors.mT @ vectors).triu()
            inverse = products - products.diagonal().diag() / 2
            top = vectors[: tall.shape[1]].mT
            change = vectors @ torch.linalg.solve_triangular(inverse, top, upper=True)
        columns = (identity - change) * tall.diagonal().detach().sign()
        return columns if tall is packed else columns.mT

    @torch.no_grad()
    def right_inverse(self, matrix: Tensor) -> Tensor:
        """Return the parameter of a matrix (m, k); of the Q in its QR, if it is not orthonormal."""
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
        packed, scales = torch.geqrf(tall)
        is_same = (packed.diagonal() >= 0) == (scales != 0)  # a scale of 0 is the identity there
        packed.diagonal().copy_(2.0 * is_same - 1.0)
        return packed if tall is matrix else packed.mT

"""Matrices with orthonormal columns, as products of Householder reflections."""

import torch
from torch import Tensor, nn

from distillers.losses.ops.numerics import no_autocast


class Reflections(nn.Module):
    """Parametrization of (m, k) matrices with orthonormal columns, or rows if m < k.

    The matrix is B H, where H are the first k columns of a product of k reflections. The parameter
    holds their vectors below its diagonal, and signs of the columns on it, which have no gradient.
    B is the orthogonal matrix that was assigned last, completed to a square one: at that moment H
    is the identity. This is what `torch.nn.utils.parametrizations.orthogonal` does by default with
    matrices that are not square, and SGD takes the same steps. That function completes B at random
    and keeps (m, m) numbers; here B is a product of k reflections, too, as m k numbers.

    A product of reflections is I - V T V', where the inverse of T is the upper triangle of V'V with
    half its diagonal: "Accumulating Householder transformations, revisited", Joffrain, Low,
    Quintana-Orti, van de Geijn and van Zee, 2006, https://doi.org/10.1145/1141885.1141886. So the
    gradient takes a few matrix products instead of a loop over the columns.
    """

    base: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("base", None)

    def forward(self, packed: Tensor) -> Tensor:
        """Return the matrix (m, k) of a parameter (m, k)."""
        tall = packed if packed.shape[0] >= packed.shape[1] else packed.mT
        columns = torch.eye(*tall.shape, dtype=tall.dtype, device=tall.device)
        with no_autocast(tall):
            for each in (tall, self.base):
                columns = reflected(each, columns)
        return columns if tall is packed else columns.mT

    @torch.no_grad()
    def right_inverse(self, matrix: Tensor) -> Tensor:
        """Return the parameter of a matrix (m, k); of the Q in its QR, if it is not orthonormal."""
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
        self.base, scales = torch.geqrf(tall)
        is_same = (self.base.diagonal() >= 0) == (scales != 0)  # a scale of 0 is the identity there
        self.base.diagonal().copy_(2.0 * is_same - 1.0)
        return -torch.eye(*matrix.shape, dtype=matrix.dtype, device=matrix.device)


def reflected(packed: Tensor, columns: Tensor) -> Tensor:
    """Apply the signs on the diagonal (m, k) to columns (m, j), then the reflections below it."""
    signs = torch.ones_like(packed[:, 0])
    signs[: packed.shape[1]] = packed.diagonal().detach().sign()
    columns = columns * signs[:, None]
    identity = torch.eye(*packed.shape, dtype=packed.dtype, device=packed.device)
    vectors = packed.tril(-1) + identity
    products = (vectors.mT @ vectors).triu()
    inverse = products - products.diagonal().diag() / 2
    return columns - vectors @ torch.linalg.solve_triangular(
        inverse, vectors.mT @ columns, upper=True
    )

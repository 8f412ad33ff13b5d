import pytest
import torch

from distillers.distillation.heads.phi_s import PhiS, fit_phi_s, statistics
from distillers.errors import InputError
from tests.golden.fill import draw


@pytest.mark.parametrize("width", [1, 2, 5, 12, 16, 33])
def test_every_dimension_gets_variance_one_and_distances_their_ratio(width) -> None:
    generator = torch.Generator().manual_seed(width)
    mix = torch.randn(width, width, generator=generator).double()
    x = torch.randn(200, width, generator=generator).double() @ mix + 3
    mean, matrix = statistics(x)
    found = (x - mean) @ matrix.T
    torch.testing.assert_close(found.mean(0), torch.zeros(width).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.var(0, correction=0), torch.ones(width).double())
    size = x.var(0, correction=0).mean()  # the mean eigenvalue
    torch.testing.assert_close(torch.cdist(found, found).square(),
                               torch.cdist(x, x).square() / size, rtol=1e-6, atol=1e-6)  # fmt: skip
    torch.testing.assert_close(fit_phi_s(x)(x.float()), found.float(), rtol=1e-3, atol=1e-3)


def test_equal_embeddings_are_refused() -> None:
    with pytest.raises(InputError, match="all equal"):
        fit_phi_s(torch.ones(5, 3))


def test_it_is_in_the_state_dict() -> None:
    one, other = PhiS(torch.ones(2), torch.eye(2)), PhiS(torch.zeros(2), torch.zeros(2, 2))
    other.load_state_dict(one.state_dict())
    x = draw("phis", 4, 2)
    assert torch.equal(one(x), other(x))


def test_golden() -> None:
    """The public code on the same features, what does not depend on the signs of eigenvectors."""
    features = draw("phis/features", 64, 8).double() @ draw("phis/mix", 8, 8).double()
    features = features + draw("phis/shift", 8).double()
    mean, matrix = statistics(features)
    assert float(mean.norm()) == pytest.approx(2.91549949476, rel=1e-6)
    scale = torch.linalg.matrix_norm(matrix, 2) ** -1
    assert float(scale) == pytest.approx(2.8437400875, rel=1e-2)  # by N or N - 1
    found = (features - mean) @ matrix.T
    covariance = found.T @ found / 64
    assert float(covariance.trace()) == pytest.approx(8.0)
    assert float(covariance.norm()) == pytest.approx(4.09149432496, rel=1e-6)

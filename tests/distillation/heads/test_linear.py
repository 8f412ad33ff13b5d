import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.overrides import TorchFunctionMode

from distillers.distillation.heads import linear, moments
from distillers.distillation.heads.attach import fit
from distillers.distillation.heads.linear import fit_logistic, fit_ridge
from distillers.errors import InputError

STRENGTHS = (1e-3, 0.1, 1.0, 10.0, 1000.0)


def data(count: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) * 7 % classes
    centres = torch.randn(classes, width, generator=generator).double()
    noise = torch.randn(count, width, generator=generator).double()
    return noise + 0.5 * centres[labels] + 3, labels


SHAPES = [(120, 20, 5), (40, 90, 4), (60, 60, 3), (80, 8, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_is_that_of_scikit_learn(shape) -> None:
    x, y = data(*shape)
    ours = fit_ridge(x, y, shape[2], STRENGTHS)
    theirs = RidgeClassifierCV(alphas=STRENGTHS).fit(x.numpy(), y.numpy())
    rows = slice(None) if shape[2] > 2 else slice(1, 2)
    assert ours.strength == theirs.alpha_
    np.testing.assert_allclose(ours.weight[rows], np.atleast_2d(theirs.coef_), atol=1e-9)
    np.testing.assert_allclose(ours.bias[rows], theirs.intercept_, atol=1e-9)
    predicted = ours.module()(x.float()).argmax(1).numpy()
    np.testing.assert_array_equal(predicted, theirs.predict(x.numpy()))


class LargestDouble(TorchFunctionMode):
    """Note the number of elements of the largest float64 tensor that is computed."""

    largest = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float64:
            self.largest = max(self.largest, found.untyped_storage().size() // 8)
        return found


@pytest.mark.parametrize("every", [1, 3])
def test_ridge_takes_blocks_of_rows_and_gives_the_same(every, monkeypatch) -> None:
    x, y = data(500, 12, 5)
    whole = fit_ridge(x.float(), y, 5)
    monkeypatch.setattr(linear, "CALIBRATED", -(-500 // every) * 5)
    for module in (linear, moments):
        monkeypatch.setattr(module, "ROWS", 32)
    with LargestDouble() as seen:
        parts = fit_ridge(x.float(), y, 5)
    kept = -(-500 // every) * 5  # scores
    assert seen.largest <= max(32 * 12, kept)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-9, atol=1e-12)
    assert (parts.strength, parts.accuracy) == (pytest.approx(whole.strength), whole.accuracy)
    assert parts.scale == pytest.approx(whole.scale, rel=1e-6 if every == 1 else 0.3)
    theirs = RidgeClassifierCV(alphas=[parts.strength]).fit(x.float().double().numpy(), y.numpy())
    np.testing.assert_allclose(parts.weight, theirs.coef_, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_logistic_regression_is_that_of_scikit_learn(shape) -> None:
    x, y = data(*shape)
    ours = fit_logistic(x, y, shape[2])
    theirs = LogisticRegression(tol=1e-12, max_iter=10000, solver="newton-cholesky")
    theirs.fit(x.numpy(), y.numpy())
    weight = ours.weight if shape[2] > 2 else ours.weight[1:] - ours.weight[:1]
    np.testing.assert_allclose(weight, theirs.coef_, atol=1e-6)
    probabilities = (x @ ours.weight.T + ours.bias).softmax(1)
    np.testing.assert_allclose(probabilities, theirs.predict_proba(x.numpy()), atol=1e-6)


def test_the_accuracy_of_ridge_is_that_of_fits_without_each_image() -> None:
    x, y = data(30, 6, 3)
    ours = fit_ridge(x, y, 3, (2.0,))
    scores = []
    for out in range(30):
        kept = torch.arange(30) != out
        one = fit_ridge(x[kept], y[kept], 3, (2.0,))
        scores.append(one.weight @ x[out] + one.bias)
    left_out = torch.stack(scores)
    assert ours.accuracy == pytest.approx(float((left_out.argmax(1) == y).double().mean()))
    losses = [
        float(cross_entropy(left_out * scale, y, label_smoothing=3 / 33))
        for scale in (0.97 * ours.scale, ours.scale, 1.03 * ours.scale)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_classes_are_permuted_with_their_labels() -> None:
    x, y = data(60, 10, 4)
    order = torch.tensor([2, 0, 3, 1])
    plain, permuted = fit_ridge(x, y, 4), fit_ridge(x, order[y], 4)
    torch.testing.assert_close(permuted.weight[order], plain.weight)


@pytest.mark.parametrize("method", ["fit", "logistic"])
def test_images_without_label_and_classes_without_images(method) -> None:
    x, y = data(60, 10, 4)
    unlabelled = torch.where(torch.arange(60) % 3 == 0, -1, y)
    some = fit(x, unlabelled, 5, method)
    same = fit(x[unlabelled >= 0], y[unlabelled >= 0], 5, method)
    torch.testing.assert_close(some.weight, same.weight)
    assert not (some.module()(x.float()).argmax(1) == 4).any()


@pytest.mark.parametrize("method", ["fit", "logistic"])
def test_the_scale_of_the_embeddings_does_not_matter(method) -> None:
    x, y = data(60, 10, 4)
    one, other = fit(x, y, 4, method), fit(1000 * x, y, 4, method)
    torch.testing.assert_close(1000 * other.weight * other.scale, one.weight * one.scale)


def test_misfits_are_refused() -> None:
    x, y = data(20, 5, 2)
    with pytest.raises(InputError, match="20 labelled images of 1 classes"):
        fit_ridge(x, y * 0, 2)
    with pytest.raises(InputError, match="not finite"):
        fit_ridge(x / 0, y, 2)


def test_ridge_minimises_its_objective() -> None:
    x, y = data(50, 12, 3)
    found = fit_ridge(x, y, 3, (3.0,))
    weight, bias = found.weight.requires_grad_(), found.bias.requires_grad_()
    error = x @ weight.T + bias - (2 * one_hot(y, 3) - 1)
    (error.square().sum() + 3 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-9
    assert float(bias.grad.abs().max()) < 1e-9

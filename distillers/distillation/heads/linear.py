"""Fit a linear classifier to embeddings: ridge regression in closed form, or logistic."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from distillers.errors import InputError

METHODS = ("ridge", "logistic")
# Strengths of ridge regression that are tried, relative to the mean eigenvalue of the embeddings.
STRENGTHS = tuple(10 ** (tenth / 2) for tenth in range(-12, 7))
UNKNOWN = 20.0  # how far the logit of a class without images is below the others' lowest bias


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of embeddings, in float64.

    Attributes:
        weight: (k, d).
        bias: (k,).
        scale: what the scores `x @ weight.T + bias` are multiplied by to be logits.
        strength: of the penalty: alpha of ridge regression, or C of logistic regression.
        accuracy: on the images that it was fitted to, a fraction; of ridge regression each image is
            classified by the fit without it.
        method: "ridge" or "logistic".
    """

    weight: Tensor
    bias: Tensor
    scale: float
    strength: float
    accuracy: float
    method: str

    def module(self) -> nn.Linear:
        """Return the layer that maps embeddings (n, d) to logits (n, k), in float32."""
        weight = (self.weight * self.scale).float().contiguous()
        return linear_layer(weight, (self.bias * self.scale).float())


def linear_layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a frozen linear layer with a weight (k, d) and a bias (k,)."""
    with torch.device("meta"):  # without drawing random weights
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def fit_ridge(
    embeddings: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: tuple[float, ...] | None = None,
) -> LinearHead:
    """Fit a ridge classifier in closed form; the strength is chosen by leave-one-out.

    The targets are 1 for an image's class and -1 for all others, there is an intercept without
    penalty, and the strength with the smallest mean squared error of the images left out is taken:
    the coefficients are those of scikit-learn's `RidgeClassifierCV`. Its scores are between about
    -1 and 1; the scale that turns them into logits minimises the cross-entropy of the scores of the
    images left out.

    Args:
        embeddings: (N, d).
        labels: (N,) int64.
        num_classes: k.
        strengths: candidates of alpha; by default 19 from 1e-6 to 1e3 times the mean eigenvalue of
            the centred embeddings' scatter matrix.

    Raises:
        InputError: if there are fewer than two images or classes, or a number is not finite.
    """
    x, y = _checked(embeddings, labels)
    targets = 2 * one_hot(y, num_classes).double() - 1
    mean, offset = x.mean(0), targets.mean(0)
    rotated, axes, eigenvalues = _principal(x - mean)
    centred = targets - offset
    projected = rotated.T @ centred
    if strengths is None:
        average = float(eigenvalues.mean()) or 1.0
        strengths = tuple(average * each for each in STRENGTHS)
    errors = [
        _left_out(rotated, eigenvalues, projected, centred, alpha).square().mean()
        for alpha in strengths
    ]
    best = strengths[int(torch.stack(errors).argmin())]
    weight = (axes @ (projected / (eigenvalues + best)[:, None])).T
    scores = targets - _left_out(rotated, eigenvalues, projected, centred, best)
    return LinearHead(
        weight,
        offset - weight @ mean,
        _calibrate(scores, y),
        best,
        float((scores.argmax(1) == y).double().mean()),
        "ridge",
    )


def fit_logistic(
    embeddings: Tensor, labels: Tensor, num_classes: int, strength: float = 1.0
) -> LinearHead:
    """Fit multinomial logistic regression with scikit-learn.

    The logit of a class without images lies 20 below the lowest bias of the others.

    Args:
        embeddings: (N, d).
        labels: (N,) int64.
        num_classes: k.
        strength: C, the inverse of the penalty.

    Raises:
        InputError: if there are fewer than two images or classes, or a number is not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = _checked(embeddings, labels)
    model = LogisticRegression(C=strength, solver="newton-cg", tol=1e-9, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(x.cpu().numpy(), y.cpu().numpy())
        except ConvergenceWarning as error:
            raise InputError(
                "logistic regression of the teacher's embeddings did not converge; take "
                "--teacher_head fit, which is in closed form."
            ) from error
    found, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(found) == 1:  # of two classes scikit-learn returns the difference of their logits
        found, bias = torch.cat([-found, found]) / 2, torch.cat([-bias, bias]) / 2
    weight = found.new_zeros(num_classes, x.shape[1])
    full_bias = found.new_full((num_classes,), float(bias.min()) - UNKNOWN)
    rows = torch.from_numpy(model.classes_)
    weight[rows], full_bias[rows] = found, bias
    weight, full_bias = weight.to(x.device), full_bias.to(x.device)
    accuracy = float(((x @ weight.T + full_bias).argmax(1) == y).double().mean())
    return LinearHead(weight, full_bias, 1.0, strength, accuracy, "logistic")


def _checked(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings in float64 and labels, both without images that have no label (-1)."""
    labels = labels.to(embeddings.device)
    x, y = embeddings[labels >= 0].double(), labels[labels >= 0]
    if len(y.unique()) < 2:
        raise InputError(
            f"a head for the teacher cannot be fitted: {len(y)} labelled images of "
            f"{len(y.unique())} classes; at least two of each are needed."
        )
    if not torch.isfinite(x).all():
        raise InputError(
            "the teacher's embeddings are not finite; a head cannot be fitted to them."
        )
    return x, y


def _principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated embeddings (N, r), axes (d, r) and eigenvalues (r,) of centred ones (N, d)."""
    if len(x) < x.shape[1]:
        left, singular, right = torch.linalg.svd(x, full_matrices=False)
        return left * singular, right.T, singular.square()
    eigenvalues, axes = torch.linalg.eigh(x.T @ x)
    return x @ axes, axes, eigenvalues.clamp(min=0)


def _left_out(
    rotated: Tensor, eigenvalues: Tensor, projected: Tensor, targets: Tensor, alpha: float
) -> Tensor:
    """Return the errors (N, k) of ridge regression at each image, fitted without it."""
    shrunk = 1 / (eigenvalues + alpha)
    leverage = rotated.square() @ shrunk + 1 / len(rotated)
    residual = targets - rotated @ (projected * shrunk[:, None])
    return residual / (1 - leverage).clamp(min=1e-12)[:, None]


def _calibrate(scores: Tensor, labels: Tensor) -> float:
    """Return the factor of scores (N, k) with the smallest cross-entropy.

    The labels are smoothed by k / (N + k), as if there were one more image with all classes for
    each class, since the factor has no optimum where every image is classified correctly.
    """
    from scipy.optimize import minimize_scalar

    count, classes = scores.shape
    smoothing = classes / (count + classes)

    def loss(power: float) -> float:
        return float(cross_entropy(scores * math.exp(power), labels, label_smoothing=smoothing))

    return math.exp(minimize_scalar(loss, bounds=(-5.0, 7.0), method="bounded").x)

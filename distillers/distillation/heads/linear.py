"""Fit a linear classifier to embeddings: ridge regression in closed form, or logistic."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from distillers.distillation.heads.moments import ROWS, centered_blocks, mean_of, scatter_of
from distillers.errors import InputError

# Strengths of ridge regression that are tried, relative to the mean eigenvalue of the embeddings.
STRENGTHS = tuple(10 ** (tenth / 2) for tenth in range(-12, 7))
CALIBRATED = 2**25  # scores at most, of images and classes, that are kept to find the scale
NOT_FINITE = "the teacher's embeddings are not finite; a head cannot be fitted to them."
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
    -1 and 1; the scale that turns them into logits minimizes the cross-entropy of the scores of the
    images left out, of evenly spaced ones if there are more than 33 million scores.

    All is computed in float64, of `ROWS` embeddings at a time.

    Args:
        embeddings: (N, d).
        labels: (N,) int64.
        num_classes: k.
        strengths: candidates of alpha; by default 19 from 1e-6 to 1e3 times the mean eigenvalue of
            the centered embeddings' scatter matrix.

    Raises:
        InputError: if there are fewer than two images or classes, or a number is not finite.
    """
    x, y = _with_labels(embeddings, labels)
    problem = _RidgeProblem(x, y, num_classes)
    if strengths is None:
        average = float(problem.eigenvalues.mean()) or 1.0
        strengths = tuple(average * each for each in STRENGTHS)
    best = strengths[int(problem.errors(strengths).argmin())]
    weight = problem.weight(best)
    scores, accuracy = problem.scores(best)
    return LinearHead(
        weight,
        problem.offset - weight @ problem.mean,
        _calibrate(scores, y[:: problem.every], len(y)),
        best,
        accuracy,
        "ridge",
    )


class _RidgeProblem:
    """Ridge regression of the classes, in passes over blocks of rows in float64.

    Its memory is that of the embeddings as they are given, a block, and matrices (d, d) and (d, k).

    Args:
        x: (N, d) embeddings of any precision.
        y: (N,) int64 labels.
        num_classes: k.

    Attributes:
        mean: (d,), of the embeddings.
        offset: (k,), mean of the targets, which are 1 for an image's class and -1 for the others.
        axes: (d, r), the principal axes of the embeddings.
        eigenvalues: (r,), of their scatter matrix.
        every: scores are returned for one of this number of rows.
    """

    def __init__(self, x: Tensor, y: Tensor, num_classes: int) -> None:
        self._x, self._y, self._classes = x, y, num_classes
        self.mean = mean_of(x)
        if not torch.isfinite(self.mean).all():
            raise InputError(NOT_FINITE)
        counts = torch.bincount(y, minlength=num_classes).double()
        self.offset = 2 * counts / len(y) - 1
        self.axes, self.eigenvalues = self._principal()
        sums = self.mean.new_zeros(num_classes, x.shape[1])
        for rows, labels in self._blocks():
            sums.index_add_(0, labels, rows)
        self._projected = self.axes.T @ (2 * sums.T)  # those of all rows together are zero
        self.every = math.ceil(len(x) * num_classes / CALIBRATED)

    def weight(self, alpha: float) -> Tensor:
        """Return the weight (k, d) for one strength."""
        return (self.axes @ (self._projected / (self.eigenvalues + alpha)[:, None])).T

    def errors(self, strengths: Sequence[float]) -> Tensor:
        """Return the mean squared error of the images left out, for each strength."""
        total = self.mean.new_zeros(len(strengths))
        for rows, labels in self._blocks():
            rotated, centered = rows @ self.axes, self._targets(labels) - self.offset
            for number, alpha in enumerate(strengths):
                total[number] += self._left_out(rotated, centered, alpha).square().sum()
        return total / (len(self._x) * self._classes)

    def scores(self, alpha: float) -> tuple[Tensor, float]:
        """Return scores of images left out, of every `every`-th, and the accuracy of all."""
        kept, correct = [], 0
        for number, (rows, labels) in enumerate(self._blocks()):
            targets = self._targets(labels)
            scores = targets - self._left_out(rows @ self.axes, targets - self.offset, alpha)
            correct += int((scores.argmax(1) == labels).sum())
            first = -number * ROWS % self.every
            kept.append(scores[first :: self.every].clone())
        return torch.cat(kept), correct / len(self._x)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of centered embeddings and their labels."""
        yield from zip(centered_blocks(self._x, self.mean), self._y.split(ROWS), strict=True)

    def _targets(self, labels: Tensor) -> Tensor:
        return 2 * one_hot(labels, self._classes).double() - 1

    def _principal(self) -> tuple[Tensor, Tensor]:
        """Return principal axes (d, r) and eigenvalues (r,) of the scatter matrix."""
        if len(self._x) < self._x.shape[1]:
            centered = self._x.double() - self.mean
            _, singular, right = torch.linalg.svd(centered, full_matrices=False)
            return right.T, singular.square()
        eigenvalues, axes = torch.linalg.eigh(scatter_of(self._x, self.mean))
        return axes, eigenvalues.clamp(min=0)

    def _left_out(self, rotated: Tensor, centered: Tensor, alpha: float) -> Tensor:
        """Return the errors (n, k) at some images of the fits without each of them.

        `rotated` (n, r) are their embeddings in the principal axes, `centered` (n, k) their targets
        less the mean.
        """
        shrunk = 1 / (self.eigenvalues + alpha)
        leverage = rotated.square() @ shrunk + 1 / len(self._x)
        residual = centered - rotated @ (self._projected * shrunk[:, None])
        return residual / (1 - leverage).clamp(min=1e-12)[:, None]


def fit_logistic(embeddings: Tensor, labels: Tensor, num_classes: int) -> LinearHead:
    """Fit multinomial logistic regression with scikit-learn to embeddings (N, d), with C = 1.

    The logit of a class without images lies 20 below the lowest bias of the others.

    Raises:
        InputError: if there are fewer than two images or classes, or a number is not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = _with_labels(embeddings, labels)
    x = x.double()
    if not torch.isfinite(x).all():
        raise InputError(NOT_FINITE)
    model = LogisticRegression(C=1.0, solver="newton-cg", tol=1e-9, max_iter=1000)
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
    return LinearHead(weight, full_bias, 1.0, 1.0, accuracy, "logistic")


def _with_labels(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings and labels without images that have no label (-1)."""
    labels = labels.to(embeddings.device)
    known = labels >= 0
    x, y = (embeddings, labels) if bool(known.all()) else (embeddings[known], labels[known])
    if len(y.unique()) < 2:
        raise InputError(
            f"a head for the teacher cannot be fitted: {len(y)} labelled images of "
            f"{len(y.unique())} classes; at least two of each are needed."
        )
    return x, y


def _calibrate(scores: Tensor, labels: Tensor, count: int) -> float:
    """Return the factor of scores (n, k) with the smallest cross-entropy.

    The labels are smoothed by k / (N + k), as if there were one more image with all classes for
    each class, since the factor has no optimum where every image is classified correctly. The
    scores and labels (n,) are those of some of the N images, `count`.
    """
    from scipy.optimize import minimize_scalar

    classes = scores.shape[1]
    smoothing = classes / (count + classes)

    def loss(power: float) -> float:
        return float(cross_entropy(scores * math.exp(power), labels, label_smoothing=smoothing))

    return math.exp(minimize_scalar(loss, bounds=(-5.0, 7.0), method="bounded").x)

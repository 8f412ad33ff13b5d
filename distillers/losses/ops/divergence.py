"""Divergences of probabilities, of all classes or some, and shares below the median."""

import torch
from torch import Tensor

from distillers.losses.ops.numerics import at_least_fp32


def target_log_probs(logits: Tensor, label: Tensor) -> Tensor:
    """Return the (n, 2) log-probabilities of the label and of all other classes together.

    Args:
        logits: (n, k), divided by the temperature.
        label: (n, k) mask of one class per row.
    """
    at_label = logits.masked_fill(~label, -torch.inf).logsumexp(dim=1)
    at_others = logits.masked_fill(label, -torch.inf).logsumexp(dim=1)
    return torch.stack((at_label, at_others), dim=1).log_softmax(dim=1)


def non_target_log_probs(logits: Tensor, left_out: Tensor) -> Tensor:
    """Return (n, k) log-probabilities among the other classes, and 0 at those left out.

    Args:
        logits: (n, k), divided by the temperature.
        left_out: (n, k) mask, not all of a row.
    """
    return logits.masked_fill(left_out, -torch.inf).log_softmax(dim=1).masked_fill(left_out, 0.0)


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the (n,) Kullback-Leibler divergences of log-probabilities (n, k)."""
    return (teacher.exp() * (teacher - student)).sum(dim=1)


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """Return KL(softmax(teacher / T) || softmax(student / T)) (n,) of two sets of logits (n, k)."""
    predicted = (at_least_fp32(student) / temperature).log_softmax(dim=1)
    target = (at_least_fp32(teacher.detach()) / temperature).log_softmax(dim=1)
    return kl_divergence(target, predicted)


def confidence(logits: Tensor) -> Tensor:
    """Return the largest probability of each row of logits (n, k), (n,)."""
    return at_least_fp32(logits).softmax(dim=1).amax(dim=1)


def share_below_median(values: Tensor) -> Tensor:
    """Return the fraction, a scalar, of values (n,) that are not above their median."""
    median = values.quantile(0.5, interpolation="midpoint")
    return (values <= median).to(values.dtype).mean()


@torch.no_grad()
def uncertain_share(teacher: Tensor) -> Tensor:
    """Return the fraction of logits (n, k) with a confidence of at most the median."""
    return share_below_median(confidence(teacher))


@torch.no_grad()
def rare_share(teacher: Tensor) -> Tensor:
    """Return the fraction of classes with at most the median of the probability in all rows."""
    return share_below_median(teacher.softmax(dim=1).sum(dim=0))

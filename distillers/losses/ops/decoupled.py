"""Log-probabilities of target and non-target classes, and divergences between them, as in DKD."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Return the (n, k) mask of labels (n,), for logits (n, k)."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)


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

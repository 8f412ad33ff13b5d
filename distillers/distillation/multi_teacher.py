"""Combine the outputs of several teachers."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from distillers.data.batch import Values
from distillers.errors import InputError
from distillers.features.extractor import Features

Combine = Literal["probabilities", "logits", "each"]


def normalize_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Return the weights of teachers with a sum of 1; equal ones if none are given.

    Raises:
        InputError: if there is no teacher, or not one positive weight for each.
    """
    if not count:
        raise InputError("no teacher was given; a network without one is trained by Supervised.")
    given = [1.0] * count if weights is None or not len(weights) else list(weights)
    if len(given) != count:
        raise InputError(f"{len(given)} weights of teachers were given for {count} teachers.")
    if not all(0 < weight < math.inf for weight in given):
        raise InputError(f"the weights of the teachers are {given}; they must be positive.")
    return tuple(weight / sum(given) for weight in given)


def combine_logits(
    logits: Sequence[Tensor], weights: Sequence[float], how: Combine = "probabilities"
) -> Tensor:
    """Return the logits (n, k) of several teachers, whose weights have a sum of 1, together.

    They are the weighted mean of the teachers' "logits", or the logarithm of the weighted mean of
    their class "probabilities".
    """
    if len(logits) == 1:
        return logits[0]
    stacked = torch.stack(list(logits))
    weight = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)[:, None, None]
    if how == "logits":
        return (weight * stacked).sum(0)
    return (stacked.log_softmax(2) + weight.log()).logsumexp(0)


def combine_features(
    of_teachers: Sequence[Features], weights: Sequence[float], how: Combine
) -> Features:
    """Return the features for losses of all teachers: those of a single one, else their logits."""
    if len(of_teachers) == 1:
        return of_teachers[0]
    logits = [each["teacher_logits"] for each in of_teachers if "teacher_logits" in each]
    if len(logits) < len(of_teachers):
        return {}
    return {"teacher_logits": combine_logits(cast(list[Tensor], logits), weights, how)}


class AverageNetwork(nn.Module):
    """Several networks as one, whose logits are combined by `combine_logits`."""

    def __init__(
        self, nets: Sequence[nn.Module], weights: Sequence[float], how: Combine = "probabilities"
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.weights, self.how = tuple(weights), how

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, c, h, w)."""
        return combine_logits([net(images) for net in self.nets], self.weights, self.how)


def batch_key(number: int, name: str) -> str:
    """Return the key in `Batch.teacher` of a value of teacher `number`, counted from 0.

    Those of the first teacher are the names of the losses' parameters, as "teacher_logits"; those
    of the second begin with "teacher2_", and so on.
    """
    return name if number == 0 else f"teacher{number + 1}_{name.removeprefix('teacher_')}"


def cached_values(cached: Values | None, number: int, names: Sequence[str]) -> Features | None:
    """Return the values of teacher `number` in `Batch.teacher`; None if it holds none of them."""
    keys = {name: batch_key(number, name) for name in names}
    if cached is None or (keys and not any(key in cached for key in keys.values())):
        return None
    return {name: cached[key] for name, key in keys.items()}


def renamed(values: Mapping[str, Tensor | list[Tensor]], number: int) -> Features:
    """Return the values of teacher `number` under their keys in `Batch.teacher`."""
    return {batch_key(number, name): value for name, value in values.items()}

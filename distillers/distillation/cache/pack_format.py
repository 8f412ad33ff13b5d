"""How a pack stores the teacher's outputs: top logits with the rest's mass, embeddings.

A row of logits is stored as the K largest and one number for the others, which keeps their mass:

    rest = log(sum of exp over the others) - log(number of the others)

so that a softmax of what is read gives the K classes the teacher's probabilities, and the others
equal shares of the rest.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from distillers.distillation.cache.part import to_half

Precision = Literal["half", "int8", "none"]


def encode_logits(logits: Tensor, top_k: int | None) -> dict[str, Tensor]:
    """Return logits (n, k) as tensors to store; all of them if `top_k` is None or at least k."""
    if top_k is None or top_k >= logits.shape[1]:
        values, scale = _half(logits)
        return {"logits": values, "logits_scale": scale}
    top, classes = logits.topk(top_k)
    others = logits.scatter(1, classes, -math.inf).logsumexp(1)
    values, scale = _half(top)
    return {
        "top_logits": values,
        "logits_scale": scale,
        "top_classes": classes.to(torch.int16 if logits.shape[1] < 2**15 else torch.int32),
        "rest": (others - math.log(logits.shape[1] - top_k)).float(),
    }


def decode_logits(stored: Mapping[str, Tensor], num_classes: int) -> Tensor:
    """Return logits (n, k) in float32 from the result of `encode_logits`."""
    scale = stored["logits_scale"][:, None]
    if "logits" in stored:
        return stored["logits"].float() * scale
    full = stored["rest"][:, None].repeat(1, num_classes)
    return full.scatter(1, stored["top_classes"].long(), stored["top_logits"].float() * scale)


def encode_embeddings(pooled: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Return embeddings (n, d) as tensors to store: half, int8 scaled row by row, or nothing."""
    if precision == "none":
        return {}
    if precision == "half":
        values, scale = _half(pooled)
        return {"pooled": values, "pooled_scale": scale}
    scale = (pooled.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).float()
    return {"pooled": (pooled / scale[:, None]).round().to(torch.int8), "pooled_scale": scale}


def decode_embeddings(stored: Mapping[str, Tensor]) -> Tensor:
    """Return embeddings (n, d) in float32 from the result of `encode_embeddings`."""
    return stored["pooled"].float() * stored["pooled_scale"][:, None]


def _half(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in half precision and the powers of two that they were divided by, as a cache."""
    half, exponents = to_half(values)
    scale = torch.ldexp(torch.ones(len(values)), torch.from_numpy(exponents).int())
    return half, scale

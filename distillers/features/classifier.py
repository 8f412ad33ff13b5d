"""Copy the classifier of a network, or check that it can be applied at each position of a map."""

import copy

import torch
from torch import Tensor, nn

from distillers.features.backbone import has_logits
from distillers.features.taps import Taps, module_at
from distillers.features.trace import ForwardTrace


@torch.no_grad()
def copy_classifier(trace: ForwardTrace, taps: Taps) -> nn.Module | None:
    """Return a frozen copy of the module that maps embeddings (n, d) to logits (n, k).

    A 1 x 1 convolution is converted to the equivalent linear layer. The copy is compared with the
    traced network.

    Returns:
        None if no single module maps the embeddings to the logits: there are no logits, `taps` have
        no head, there are two heads, or more than averaging follows the head.
    """
    if not taps.head or not has_logits(trace.net):
        return None
    features = trace.read(taps, ("pooled", "logits"))
    module = module_at(trace.net, taps.head)
    head = _as_linear(module) if isinstance(module, nn.Conv2d) else copy.deepcopy(module)
    if head is None:
        return None
    head.eval().requires_grad_(False)
    pooled, logits = features["pooled"], features["logits"]
    assert isinstance(pooled, Tensor)
    assert isinstance(logits, Tensor)
    try:
        output = head.to(logits.dtype)(pooled)
    except (RuntimeError, TypeError):  # it takes more than the embedding
        return None
    return head if _is_close(trace, taps, output) else None


@torch.no_grad()
def has_class_maps(trace: ForwardTrace, taps: Taps) -> bool:
    """Return whether the logits are one linear classifier of the average of the final map.

    Values are compared, because taps that were declared may name another map.
    """
    if not taps.places("class_maps"):
        return False
    head = copy_classifier(trace, taps)
    final = trace.read(taps, ("final",))["final"]
    assert isinstance(final, Tensor)
    if not isinstance(head, nn.Linear) or final.shape[1] != head.in_features:
        return False
    return _is_close(trace, taps, head(final.mean((2, 3))))


def _is_close(trace: ForwardTrace, taps: Taps, output: Tensor) -> bool:
    """Return whether the output of a classifier is the logits of the network."""
    inputs = trace.input_of(taps.head)
    is_reduced = inputs is not None and inputs.dtype in (torch.bfloat16, torch.float16)
    tolerance = (2e-2 if is_reduced else 1e-3) * float(trace.logits.abs().max())
    return output.shape == trace.logits.shape and torch.allclose(
        output, trace.logits.to(output.dtype), rtol=0, atol=tolerance
    )


def _as_linear(convolution: nn.Conv2d) -> nn.Linear | None:
    """Return the linear layer that computes a 1 x 1 convolution at each position."""
    if convolution.kernel_size != (1, 1) or convolution.groups != 1:
        return None
    weight, bias = convolution.weight, convolution.bias
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.to(weight.device, weight.dtype)
    linear.weight.copy_(weight[:, :, 0, 0])
    if bias is not None:
        linear.bias.copy_(bias)
    return linear

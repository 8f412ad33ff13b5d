"""A teacher's classifier by itself, for losses that feed it other embeddings."""

import copy

import torch
from torch import Tensor, nn

from distillers.features.taps import FeatureExtractor, Taps, eval_mode, module_at


@torch.no_grad()
def head_of(net: nn.Module, taps: Taps, images: Tensor) -> nn.Module | None:
    """A frozen copy of the module that makes logits (n, k) of embeddings (n, d).

    A 1 x 1 convolution is turned into the linear layer that it is.

    Args:
        net: the network.
        taps: where to read it.
        images: (n, c, h, w), any content, to try the copy on.

    Returns:
        None where the logits are not those of such a module: the classifier is not shown, there are
        two, or what comes after it is more than averaging.
    """
    if not taps.head:
        return None
    reader = FeatureExtractor(net, taps, ("pooled", "logits"))
    try:
        with eval_mode(net):
            values = reader(images[:2])
    finally:
        reader.close()
    module = module_at(net, taps.head)
    head = _as_linear(module) if isinstance(module, nn.Conv2d) else copy.deepcopy(module)
    if head is None:
        return None
    head.eval().requires_grad_(False)
    pooled, logits = values["pooled"], values["logits"]
    if not isinstance(pooled, Tensor) or not isinstance(logits, Tensor):
        raise TypeError("the embedding and the logits are single tensors")
    again = head(pooled)
    tolerance = 1e-3 * float(logits.abs().max())
    is_same = again.shape == logits.shape and torch.allclose(again, logits, rtol=0, atol=tolerance)
    return head if is_same else None


def _as_linear(convolution: nn.Conv2d) -> nn.Linear | None:
    if convolution.kernel_size != (1, 1) or convolution.groups != 1:
        return None
    weight, bias = convolution.weight, convolution.bias
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.to(weight.device, weight.dtype)
    linear.weight.copy_(weight[:, :, 0, 0])
    if bias is not None:
        linear.bias.copy_(bias)
    return linear

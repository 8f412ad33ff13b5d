"""Simulate int8 weights and activations in training, so that a network learns to bear them.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, https://arxiv.org/abs/1712.05877. Gradients pass the rounding unchanged
(straight-through estimator, Bengio et al., https://arxiv.org/abs/1308.3432).

The rounding is that of `distillers export --int8`: weights with a symmetric scale for each output
channel, inputs of layers with one range for all. A batch normalization after a layer multiplies
each output channel, which changes its scale alone, so that it need not be folded for training.
The paper averages the range of activations over steps; here it is that of the batch, without a
state, and the exported file gets the range on its calibration images.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.Linear)
TINY = 1e-12  # smallest scale, for channels of zeros


def fake_quantize_layers(net: nn.Module) -> int:
    """Let the layers of a network compute with rounded weights and inputs in training mode.

    In evaluation mode, and in the state dict, nothing changes.

    Args:
        net: changed in place: each `Conv2d` and `Linear`, also of a subclass.

    Returns:
        The number of layers.
    """
    layers = [module for module in net.modules() if isinstance(module, LAYERS)]
    for layer in layers:
        layer.__class__ = _fake_quantized(type(layer))
    return len(layers)


def round_weight(weight: Tensor) -> Tensor:
    """Round a weight (out, ...) to 255 values in each output channel, symmetric around 0."""
    scale = (weight.detach().flatten(1).abs().amax(1) / 127).clamp_min(TINY).float()
    zero_point = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -127, 127)


def round_input(x: Tensor) -> Tensor:
    """Round a tensor to 256 values from its minimum to its maximum, one of which is exactly 0."""
    low, high = x.detach().float().aminmax()
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / 255).clamp_min(TINY)
    zero_point = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)


@cache
def _fake_quantized(kind: type[Any]) -> type[Any]:
    """Return a subclass of a layer's class that rounds in training mode."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training:
            return kind.forward(self, x)
        with _weight(self, round_weight(self.weight)):
            return kind.forward(self, round_input(x))

    return type(f"FakeQuantized{kind.__name__}", (kind,), {"forward": forward})


@contextmanager
def _weight(layer: Any, weight: Tensor) -> Iterator[None]:
    """Use another tensor as a layer's weight."""
    parameter = layer._parameters.pop("weight")
    layer.weight = weight
    try:
        yield
    finally:
        del layer.weight
        layer._parameters["weight"] = parameter

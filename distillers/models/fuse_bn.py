"""Fuse batch normalizations into the layers before them, where that changes no result."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from distillers.features.taps import Place
from distillers.features.trace import ForwardTrace

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PRECISE = (torch.float32, torch.float64)  # in half precision, rounding the product changes results


@dataclass(frozen=True)
class FusiblePair:
    """Paths of a layer and of the batch normalization that is the only user of its output."""

    layer: str
    norm: str


def find_pairs(trace: ForwardTrace, places: Collection[Place]) -> list[FusiblePair]:
    """Return the pairs that can be fused into one layer.

    The input of the normalization is the output of the layer; no other function takes this output,
    and none takes the weight of the layer; each of both runs once, has a known type and no hooks;
    and nothing between them is read.
    """
    read = {
        id(call.output if side == "out" else call.input)
        for call in trace.calls
        for path, side in places
        if call.path == path
    }
    made_by = {
        id(call.output): call
        for call in trace.calls
        if _is_layer(call.module) and trace.ran_once(call.path)
    }
    pairs = []
    for call in trace.calls:
        before = made_by.get(id(call.input))
        if before is None or not trace.ran_once(call.path) or not _is_norm(call.module):
            continue
        if isinstance(before.module, nn.Linear) and before.output.ndim != 2:
            continue  # the normalization is of the second dimension, not of the layer's features
        if id(before.output) in read or trace.dataflow.num_uses(before.output) != 1:
            continue
        if trace.dataflow.num_uses(before.module.get_parameter("weight")) == 1:
            pairs.append(FusiblePair(before.path, call.path))
    return pairs


@torch.no_grad()
def fuse(net: nn.Module, pairs: Collection[FusiblePair]) -> None:
    """Fuse each pair in place; an identity, or its activation, takes the norm's place."""
    for pair in pairs:
        layer, norm = net.get_submodule(pair.layer), net.get_submodule(pair.norm)
        weight, bias = fuse_weights(layer, norm)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)
        net.set_submodule(pair.norm, Activation(norm) if _has_activation(norm) else nn.Identity())


def fuse_weights(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one layer that computes `norm(layer(x))` in evaluation mode.

    They are computed in double precision, so that each is rounded once.
    """
    given = (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    values: list[Any] = [x if x is None else x.detach().double() for x in given]
    weight, bias, mean, var, scale, shift = values
    fused = fuse_conv_bn_weights(weight, bias, mean, var, norm.eps, scale, shift)
    return fused[0].detach().to(layer.weight.dtype), fused[1].detach().to(layer.weight.dtype)


class Activation(nn.Module):
    """The dropout and activation of timm's `BatchNormAct2d`, under the same names."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        """Return `act(drop(x))`."""
        return self.act(self.drop(x))


def _is_layer(module: nn.Module) -> bool:
    known = type(module) in LAYERS and "weight" in module._parameters  # not a parametrization
    return known and module.weight.dtype in PRECISE and not _has_hooks(module)


def _is_norm(module: Any) -> bool:
    known = type(module) in NORMS or _has_activation(module)
    return known and module.running_mean is not None and not _has_hooks(module)


def _has_activation(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.layers.")


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)

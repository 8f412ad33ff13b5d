"""Run a network whose weights have a reduced precision."""

import torch
from torch import Tensor, nn

from distillers.features.taps import declare_inner_taps


class ReducedPrecision(nn.Module):
    """A network with weights of a reduced precision; images and outputs stay in float32.

    Args:
        net: the network; its weights are converted. If it declares `taps`, this module declares the
            same places.
        dtype: torch.bfloat16 or torch.float16.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net.to(dtype)
        self.dtype = dtype
        declare_inner_taps(self, net)

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the network in float32."""
        return self.net(images.to(self.dtype)).float()

"""Exits: small networks that turn the map of a stage into logits."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from distillers.models.stages import init_kaiming_normal

HEADS = 4  # of attention; fewer if the width is no multiple


def convolutional_exit(width: int, last: int, num_blocks: int, num_classes: int) -> nn.Sequential:
    """Return blocks that halve the size and double the width, average pooling and a linear layer.

    The last block has `last` channels; without any block, a 1 x 1 convolution changes the width.
    """
    blocks: list[nn.Module] = [] if num_blocks else [nn.Conv2d(width, last, 1)]
    for number in range(num_blocks):
        following = last if number == num_blocks - 1 else 2 * width
        blocks += [*_separable(width, width, 2), *_separable(width, following, 1)]
        width = following
    init_kaiming_normal(nn.Sequential(*blocks))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _head(last, num_classes))


def token_exit(width: int, num_blocks: int, num_classes: int) -> nn.Sequential:
    """Return a merging of 2 x 2 positions, transformer blocks, their mean and a linear layer."""
    blocks = [
        nn.TransformerEncoderLayer(
            width,
            math.gcd(HEADS, width),
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        for _ in range(num_blocks)
    ]
    return nn.Sequential(PatchMerging(width), *blocks, MeanToken(), _head(width, num_classes))


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization by the running statistics where a channel has one value only.

    This is so for the only labelled image of a batch, if its map has one position.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 the name in PyTorch
        """Return normalized maps (n, c, h, w)."""
        if self.training and input.numel() == self.num_features:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class PatchMerging(nn.Module):
    """Merge 2 x 2 positions of a map (n, c, h, w) into tokens (n, t, c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.project = nn.Linear(4 * width, width)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the tokens; a row or column is added if the sides are odd."""
        even = F.pad(maps, (0, maps.shape[3] % 2, 0, maps.shape[2] % 2))
        merged = F.pixel_unshuffle(even, 2).flatten(2).transpose(1, 2)
        return F.gelu(self.project(self.norm(merged)))


class MeanToken(nn.Module):
    """Average tokens (n, t, d) to (n, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean."""
        return tokens.mean(dim=1)


def _separable(width: int, following: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
        nn.Conv2d(width, following, 1, bias=False),
        BatchNorm(following),
        nn.ReLU(),
    ]


def _head(width: int, num_classes: int) -> nn.Linear:
    """Return a linear layer with small weights and without bias at first."""
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head

"""ShuffleNetV2 for small images.

Ma, Zhang, Zheng and Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", ECCV 2018, arXiv:1807.11164, table 5.

As in the public code of distillation papers, and unlike that paper: a 1 x 1 stem without pooling
because 32 x 32 images are small. Weights have the default initialization of torch.

The paper activates the new half of a block before concatenation and shuffle. Here the shuffled map
is activated, which is the same function with the same gradient, because the other half is the
output of a ReLU already; each block thus has one activation whose input can be read.
"""

import torch
from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.stages import last_relus

STEM_CHANNELS = 24
LAST_CHANNELS = 1024
CHANNELS = {1.0: (116, 232, 464), 1.5: (176, 352, 704)}
NUM_BLOCKS = (4, 8, 4)


class KeepingBlock(nn.Module):
    """Passes half of the channels through and convolves the other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.last_relu = nn.ReLU()  # not in place: its input is read as a feature

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w), non-negative, to the same shape."""
        kept, used = x.chunk(2, dim=1)
        used = self.relu1(self.bn1(self.conv1(used)))
        used = self.bn3(self.conv3(self.bn2(self.conv2(used))))
        return self.last_relu(self.shuffle(torch.cat([kept, used], dim=1)))


class HalvingBlock(nn.Module):
    """Halves the resolution in two branches, each of which outputs half of the channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu3 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.last_relu = nn.ReLU()  # not in place: its input is read as a feature

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / 2, w / 2)."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.relu3(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return self.last_relu(self.shuffle(torch.cat([left, right], dim=1)))


class ShuffleNetV2(nn.Module):
    """A ShuffleNetV2 for 32 x 32 images, or any other size."""

    def __init__(self, width: float = 1.0, num_classes: int = 100) -> None:
        super().__init__()
        if width not in CHANNELS:
            raise ValueError(f"width {width} is none of {sorted(CHANNELS)}")
        channels = CHANNELS[width]
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(STEM_CHANNELS, channels[0], NUM_BLOCKS[0])
        self.layer2 = _stage(channels[0], channels[1], NUM_BLOCKS[1])
        self.layer3 = _stage(channels[1], channels[2], NUM_BLOCKS[2])
        self.conv2 = nn.Conv2d(channels[2], LAST_CHANNELS, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST_CHANNELS)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(LAST_CHANNELS, num_classes)
        self.taps = Taps(
            maps=("layer1", "layer2", "layer3"),
            head="linear",
            stem="relu1",
            final="relu2",
            preacts=last_relus(NUM_BLOCKS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.pool(x).flatten(1))


def _stage(in_channels: int, out_channels: int, num_blocks: int) -> nn.Sequential:
    first = HalvingBlock(in_channels, out_channels)
    others = [KeepingBlock(out_channels) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *others)

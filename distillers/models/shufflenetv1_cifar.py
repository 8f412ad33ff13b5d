"""ShuffleNet for small images.

Zhang, Zhou, Lin and Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices", CVPR 2018, arXiv:1707.01083, with three groups.

As in the public code of distillation papers, and unlike that paper: a 1 x 1 stem without pooling
because 32 x 32 images are small, a ReLU after the depthwise convolution too, and 4, 8, 4 blocks of
which the first of each stage halves the resolution. Initialized as torch does by default.
"""

from functools import partial

import torch
from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.stages import last_relus, make_stage

STEM_CHANNELS = 24
CHANNELS = (240, 480, 960)
NUM_BLOCKS = (4, 8, 4)


class ShuffleBlock(nn.Module):
    """Grouped 1 x 1 convolution, shuffle, depthwise 3 x 3, grouped 1 x 1.

    With stride 2 the pooled input is concatenated to the result; with stride 1 it is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        new_channels = out_channels - in_channels if stride == 2 else out_channels
        inner = new_channels // 4
        first_groups = 1 if in_channels == STEM_CHANNELS else groups  # as the paper's section 3.2
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, new_channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new_channels)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1)
        self.last_relu = nn.ReLU()  # not in place: its input is read as a feature

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        out = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        joined = torch.cat([out, self.shortcut(x)], dim=1) if self.stride == 2 else out + x
        return self.last_relu(joined)


class ShuffleNet(nn.Module):
    """A ShuffleNet for 32 x 32 images, or any other size."""

    def __init__(self, groups: int = 3, num_classes: int = 100) -> None:
        super().__init__()
        block = partial(ShuffleBlock, groups=groups)
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(block, STEM_CHANNELS, CHANNELS[0], 2, NUM_BLOCKS[0])
        self.layer2 = make_stage(block, CHANNELS[0], CHANNELS[1], 2, NUM_BLOCKS[1])
        self.layer3 = make_stage(block, CHANNELS[1], CHANNELS[2], 2, NUM_BLOCKS[2])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(CHANNELS[2], num_classes)
        self.taps = Taps(
            maps=("layer1", "layer2", "layer3"),
            head="linear",
            stem="relu",
            preacts=last_relus(NUM_BLOCKS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))

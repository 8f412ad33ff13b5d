"""MobileNetV2 for small images.

Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018, arXiv:1801.04381, table 2.

As in the public code of distillation papers, and unlike that paper: ReLU instead of ReLU6, an
expansion convolution in the first block too (of factor 1), stride 1 in the second stage because
32 x 32 images are small, no dropout.

A block ends in a linear bottleneck, so the stage maps are not activated and equal their
pre-activations, which are read at the input of the next module.
"""

from functools import partial

from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.stages import init_kaiming_normal, make_stage

# expansion, channels at full width, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280  # never narrowed


class InvertedResidual(nn.Module):
    """1 x 1 expansion, depthwise 3 x 3, linear 1 x 1 projection; a shortcut if shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """A MobileNetV2 for 32 x 32 images, or any other size."""

    def __init__(self, width: float = 1.0, num_classes: int = 100) -> None:
        super().__init__()
        stem = int(STEM_CHANNELS * width)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        stages = []
        in_channels = stem
        for expansion, full_channels, num_blocks, stride in STAGES:
            channels = int(full_channels * width)
            block = partial(InvertedResidual, expansion=expansion)
            stages.append(make_stage(block, in_channels, channels, stride, num_blocks))
            in_channels = channels
        self.blocks = nn.Sequential(*stages)
        self.conv2 = nn.Sequential(
            nn.Conv2d(in_channels, LAST_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(LAST_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(LAST_CHANNELS, num_classes))
        self.taps = Taps(
            maps=("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
            head="classifier.0",
            stem="conv1",
            final="conv2",
            preacts=("blocks.2", "blocks.3", "blocks.5", "conv2"),
        )
        init_kaiming_normal(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.conv2(self.blocks(self.conv1(x)))
        return self.classifier(self.pool(x).flatten(1))

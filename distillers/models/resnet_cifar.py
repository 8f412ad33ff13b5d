"""Residual networks for small images.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv:1512.03385, section 4.2: a 3 x 3 stem, three stages of basic blocks at full, half and quarter
resolution, depth 6 n + 2.

Where the public code of distillation papers differs from that section, this file follows the code,
so that its checkpoints load: a shortcut that changes the shape is a 1 x 1 convolution with batch
normalization (option B; section 4.2 pads with zeros), and there are widened networks: `x4` has four
times the channels in the stages and twice in the stem, `x2` twice in the stages only, `x4_double`
twice the channels of `x4`.
"""

from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.stages import init_kaiming_normal, last_relus, make_stage

STEM_CHANNELS = {1: 16, 2: 16, 4: 32, 8: 64}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; the sum is activated."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = project(in_channels, out_channels, stride)
        self.last_relu = nn.ReLU()  # not in place: its input is read as a feature

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.last_relu(x + shortcut)


def project(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return the shortcut of a block, or None for the identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet(nn.Module):
    """A residual network for 32 x 32 images, or any other size."""

    def __init__(self, depth: int, widening: int = 1, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth {depth} is not 6 n + 2, as in 8, 14, 20")
        if widening not in STEM_CHANNELS:
            raise ValueError(f"widening {widening} is none of {sorted(STEM_CHANNELS)}")
        num_blocks = (depth - 2) // 6
        stem = STEM_CHANNELS[widening]
        widths = [16 * widening, 32 * widening, 64 * widening]
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(BasicBlock, stem, widths[0], 1, num_blocks)
        self.layer2 = make_stage(BasicBlock, widths[0], widths[1], 2, num_blocks)
        self.layer3 = make_stage(BasicBlock, widths[1], widths[2], 2, num_blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        self.taps = Taps(
            maps=("layer1", "layer2", "layer3"),
            head="fc",
            stem="relu",
            preacts=last_relus([num_blocks] * 3),
        )
        init_kaiming_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))

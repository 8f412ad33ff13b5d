"""The 50-layer residual network for small images.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
arXiv:1512.03385, table 1. As in the public code of distillation papers, and unlike that paper: a
3 x 3 stem of stride 1 without pooling because 32 x 32 images are small, and stride 2 in a block's
3 x 3 convolution instead of its first one.
"""

from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.resnet_cifar import project
from distillers.models.stages import init_kaiming_normal, last_relus, make_stage

EXPANSION = 4
CHANNELS = (256, 512, 1024, 2048)  # of the stages' outputs
NUM_BLOCKS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with a shortcut; the sum is activated."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        channels = out_channels // EXPANSION
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = project(in_channels, out_channels, stride)
        self.last_relu = nn.ReLU()  # not in place: its input is read as a feature

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.last_relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """A 50-layer residual network for 32 x 32 images, or any other small size."""

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = make_stage(Bottleneck, 64, CHANNELS[0], 1, NUM_BLOCKS[0])
        self.layer2 = make_stage(Bottleneck, CHANNELS[0], CHANNELS[1], 2, NUM_BLOCKS[1])
        self.layer3 = make_stage(Bottleneck, CHANNELS[1], CHANNELS[2], 2, NUM_BLOCKS[2])
        self.layer4 = make_stage(Bottleneck, CHANNELS[2], CHANNELS[3], 2, NUM_BLOCKS[3])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(CHANNELS[3], num_classes)
        self.taps = Taps(
            maps=("layer1", "layer2", "layer3", "layer4"),
            head="linear",
            stem="relu",
            preacts=last_relus(NUM_BLOCKS),
        )
        init_kaiming_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.pool(x).flatten(1))

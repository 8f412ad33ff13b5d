"""Residual networks for ImageNet, with the parameter names, shapes and outputs of torchvision.

He, Zhang, Ren and Sun, CVPR 2016, arXiv:1512.03385 (18, 34 and 50 layers); Xie et al., "Aggregated
Residual Transformations", CVPR 2017, arXiv:1611.05431 (ResNeXt); Zagoruyko and Komodakis, BMVC
2016, arXiv:1605.07146 (wide). The `x2` networks of basic blocks come from the public code of
distillation papers: twice the channels after the same stem.

As in torchvision, and unlike the first paper, stride 2 is in a bottleneck's 3 x 3 convolution. They
are implemented here because torchvision runs one in-place ReLU several times per block, so that the
map before a stage's last activation cannot be read; checkpoints are interchangeable.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.resnet_cifar import BasicBlock, project
from distillers.models.stages import init_kaiming_normal, last_relus, make_stage

STEM_CHANNELS = 64
EXPANSION = 4


class Bottleneck(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolutions with a shortcut; a group is 64 wide in ResNet."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        groups: int = 1,
        group_width: int = STEM_CHANNELS,
    ) -> None:
        super().__init__()
        inner = out_channels // EXPANSION * group_width // STEM_CHANNELS * groups
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = project(in_channels, out_channels, stride)
        self.last_relu = nn.ReLU()  # not in place: its input is read as a feature

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.last_relu(self.bn3(self.conv3(x)) + shortcut)


class ResNetImageNet(nn.Module):
    """A residual network of four stages for 224 x 224 images; each stage doubles the width."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        num_blocks: Sequence[int],
        first_width: int,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        widths = [first_width * 2**stage for stage in range(4)]
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = make_stage(block, STEM_CHANNELS, widths[0], 1, num_blocks[0])
        self.layer2 = make_stage(block, widths[0], widths[1], 2, num_blocks[1])
        self.layer3 = make_stage(block, widths[1], widths[2], 2, num_blocks[2])
        self.layer4 = make_stage(block, widths[2], widths[3], 2, num_blocks[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        self.taps = Taps(
            maps=("layer1", "layer2", "layer3", "layer4"),
            head="fc",
            stem="maxpool",
            preacts=last_relus(num_blocks),
        )
        init_kaiming_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def basic_resnet(
    num_blocks: Sequence[int], widening: int = 1, num_classes: int = 1000
) -> ResNetImageNet:
    """Build a network of basic blocks with `widening` times the channels after the stem."""
    return ResNetImageNet(BasicBlock, num_blocks, STEM_CHANNELS * widening, num_classes)


def bottleneck_resnet(
    num_blocks: Sequence[int],
    groups: int = 1,
    group_width: int = STEM_CHANNELS,
    num_classes: int = 1000,
) -> ResNetImageNet:
    """Build a network of bottleneck blocks; see `Bottleneck` for `groups` and `group_width`."""
    block = partial(Bottleneck, groups=groups, group_width=group_width)
    return ResNetImageNet(block, num_blocks, STEM_CHANNELS * EXPANSION, num_classes)

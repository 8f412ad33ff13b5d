"""Wide residual networks for small images.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146: blocks that
normalize and activate before each convolution, depth 6 n + 4, widened k times.

As in the public code of distillation papers, the stage maps are the outputs of the three groups,
which are sums without activation. Their pre-activation is the output of the following batch
normalization, and the pooled map, `final`, follows the last of these and its ReLU. There is no
dropout: those papers train with a rate of 0.
"""

from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.stages import init_kaiming_normal, make_stage


class WideBlock(nn.Module):
    """Batch normalization, ReLU and convolution, twice, with a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()  # not in place: its input is read as a feature
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (  # the name in published checkpoints
            None
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(activated))))


class WideGroup(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, num_blocks: int) -> None:
        super().__init__()
        self.layer = make_stage(WideBlock, in_channels, out_channels, stride, num_blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        return self.layer(x)


class WideResNet(nn.Module):
    """A wide residual network for 32 x 32 images, or any other size."""

    def __init__(self, depth: int, widening: int = 1, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth {depth} is not 6 n + 4, as in 10, 16, 40")
        num_blocks = (depth - 4) // 6
        widths = [16 * widening, 32 * widening, 64 * widening]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = WideGroup(16, widths[0], 1, num_blocks)
        self.block2 = WideGroup(widths[0], widths[1], 2, num_blocks)
        self.block3 = WideGroup(widths[1], widths[2], 2, num_blocks)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()  # not in place: its input is read as a feature
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        self.taps = Taps(
            maps=("block1", "block2", "block3"),
            head="fc",
            stem="conv1",
            final="relu",
            preacts=("block2.layer.0.relu1", "block3.layer.0.relu1", "relu"),
        )
        init_kaiming_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.pool(self.relu(self.bn1(x))).flatten(1))

"""VGG networks with batch normalization for small images.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015, arXiv:1409.1556: 3 x 3 convolutions in five blocks, as deep as its nets A, B, D and E.

As in the public code of distillation papers, and unlike that paper: batch normalization after each
convolution, one linear layer instead of three, a pooling step after the fourth block only where its
map is larger than 4 x 4 (so 64 x 64 images end at 4 x 4 as 32 x 32 ones do), and the 8-layer net.
"""

from torch import Tensor, nn

from distillers.features.taps import Taps
from distillers.models.stages import init_kaiming_normal

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """A VGG network for 32 x 32 or 64 x 64 images."""

    def __init__(self, depth: int, num_classes: int = 100) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"depth {depth} is none of {sorted(CONVOLUTIONS)}")
        counts = CONVOLUTIONS[depth]
        self.block0 = _block(3, CHANNELS[0], counts[0])
        self.block1 = _block(CHANNELS[0], CHANNELS[1], counts[1])
        self.block2 = _block(CHANNELS[1], CHANNELS[2], counts[2])
        self.block3 = _block(CHANNELS[2], CHANNELS[3], counts[3])
        self.block4 = _block(CHANNELS[3], CHANNELS[4], counts[4])
        self.halve = nn.MaxPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(CHANNELS[4], num_classes)
        self.taps = Taps(
            maps=("block1", "block2", "block3", "block4"),
            head="classifier",
            stem="block0",
            preacts=tuple(f"block{block}.{3 * counts[block] - 1}" for block in (1, 2, 3, 4)),
        )
        init_kaiming_normal(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.block1(self.halve(self.block0(x)))
        x = self.block2(self.halve(x))
        x = self.block3(self.halve(x))
        if x.shape[-1] > 4:
            x = self.halve(x)
        return self.classifier(self.pool(self.block4(x)).flatten(1))


def _block(in_channels: int, out_channels: int, num_convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in range(num_convolutions):
        is_last = step == num_convolutions - 1  # its input is read, so it is not in place
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=not is_last),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers)

"""Small networks and batches that the tests share."""

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.features.taps import Taps


class Small(nn.Module):
    """Three stages of one convolution each, on 8 x 8 images."""

    def __init__(self, width: int = 4, classes: int = 5, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.stage1 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.stage2 = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.late = nn.ReLU(inplace)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.stage1(self.stem(x)) - 0.1)
        return self.fc(self.pool(self.late(x - 0.2 if not self.late.inplace else x)).flatten(1))


class Declared(Small):
    """The same, with its taps declared."""

    def __init__(self, width: int = 4, classes: int = 5) -> None:
        super().__init__(width, classes)
        self.taps = Taps(
            maps=("stage1", "stage2"),
            head="fc",
            stem="stem",
            final="late",
            preacts=("stage1.1", "stage2.2"),
        )


def make_batch(n: int = 6, classes: int = 5, size: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, size, size, generator=generator)
    return Batch(images, torch.randint(classes, (n,), generator=generator), torch.arange(n))


def tiny(num_classes: int) -> nn.Module:
    """A network that learns a little of the digits in no time."""
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)
    )
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, num_classes))


def tiny_vit(num_classes: int) -> nn.Module:
    """A vision transformer for the digits."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=4, embed_dim=12, depth=3, num_heads=2, num_classes=num_classes
    )


def seven(num_classes: int) -> nn.Module:
    """A network that does not care how many classes are asked for."""
    del num_classes
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))


class PerImage(nn.Module):
    """A loss whose author forgot the mean."""

    def forward(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(student_logits, labels, reduction="none")


class TwoViews(nn.Module):
    """A loss that compares both networks on both views."""

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_logits_strong: Tensor,
        teacher_logits_strong: Tensor,
    ) -> Tensor:
        first = (student_logits - teacher_logits).square().mean()
        return first + 2 * (student_logits_strong - teacher_logits_strong).square().mean()

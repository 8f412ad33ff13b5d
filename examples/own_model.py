"""A network of your own: a class or function that takes `num_classes` and maps images to logits.

Use it as `python train_student.py --path_t ... --model_s examples.own_model:Tiny`, as a teacher
with `--model examples.own_model:Tiny`. `taps` says where losses read feature maps and embeddings of
it. It may be left out: then a rule finds the places, here those without the first convolution.
"""

import torch
from torch import Tensor, nn

from distillers import Taps


def stage(narrow: int, wide: int) -> nn.Sequential:
    """Half the size, twice the channels."""
    convolution = nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(wide), nn.ReLU())


class Tiny(nn.Module):
    """Three convolutions.

    Args:
        num_classes: number of logits.
    """

    taps = Taps(maps=("stages.0", "stages.1", "stages.2"), head="head")

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stages = nn.Sequential(stage(3, 16), stage(16, 32), stage(32, 64))
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, 3, h, w)."""
        return self.head(self.stages(images).mean((2, 3)))


if __name__ == "__main__":
    import distillers
    from distillers import models
    from distillers.data.batch import Batch

    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    student = models.create("examples.own_model:Tiny", num_classes=10)
    teacher = models.create("resnet20", num_classes=10)
    task = distillers.distil(
        student, teacher, {"ce": 1.0, "semckd": 400.0}, images=images[:2], batch_size=8
    )
    print(task(Batch(images, labels, torch.arange(8))).parts)

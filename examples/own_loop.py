"""One loss of the library in a training loop of your own; nothing else of it is used."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillers.losses import KD


def train(student: nn.Module, teacher: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Distil with plain PyTorch; return the loss of the last batch."""
    kd = KD(temperature=4.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    teacher.eval()
    loss = torch.tensor(torch.nan)
    for images, labels in batches:
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = student(images)
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * kd(logits, teacher_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


if __name__ == "__main__":
    from distillers import models

    torch.manual_seed(0)
    batch = (torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
    small = models.create("resnet8", num_classes=10)
    large = models.create("resnet20", num_classes=10)
    print(f"loss {train(small, large, [batch] * 5):.3f}")

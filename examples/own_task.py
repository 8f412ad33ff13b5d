"""A scheme that is no sum of losses: two students that teach each other.

Deep Mutual Learning, Zhang, Xiang, Hospedales and Lu, 2017, https://arxiv.org/abs/1706.00384.
A task implements two methods: `forward` returns a `Step`, `deployed` the network to evaluate.
"""

import torch
import torch.nn.functional as F
from torch import nn

import distillers
from distillers import models
from distillers.data import Loader, load
from distillers.data.batch import Batch
from distillers.losses import KD


class Mutual(distillers.Task):
    """Train two networks on the labels and on each other's predictions.

    Args:
        first: the network that is deployed.
        second: the network that it learns with.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.kd = KD(temperature=1.0)

    def forward(self, batch: Batch, progress: float = 0.0) -> distillers.Step:  # noqa: ARG002
        """Compute the sum of the losses of both networks."""
        a, b = self.first(batch.images), self.second(batch.images)
        ce = F.cross_entropy(a, batch.labels) + F.cross_entropy(b, batch.labels)
        mutual = self.kd(a, b) + self.kd(b, a)  # KD lets no gradient into its teacher
        return distillers.Step(ce + mutual, {"ce": ce.detach(), "mutual": mutual.detach()}, a)

    def deployed(self) -> nn.Module:
        """Return the first network."""
        return self.first


def main(epochs: int = 2) -> float:
    """Train on digits and return the test accuracy in percent."""
    torch.manual_seed(0)
    digits = load("digits")
    task = Mutual(*(models.create("resnet8", num_classes=10) for _ in range(2)))
    shared = {"mean": digits.mean, "std": digits.std}
    train = Loader(
        digits.train_images,
        digits.train_labels,
        batch_size=64,
        shuffle=True,
        augment=True,
        flip=False,
        **shared,
    )
    test = Loader(digits.test_images, digits.test_labels, batch_size=250, **shared)
    rows: list[dict[str, float]] = []
    distillers.fit(
        task,
        train,
        distillers.Hyperparameters(epochs=epochs, learning_rate=0.05, milestones=(epochs - 2,)),
        evaluate=lambda net: {"test_acc": distillers.score(net, test.epoch(1)).acc},
        on_epoch_end=lambda row, *_: rows.append(row),
    )
    return rows[-1]["test_acc"]


if __name__ == "__main__":
    print(f"{main():.1f} % of the test digits")

"""Training images of the same and of other classes, drawn on the device by index arithmetic."""

import torch
from torch import Tensor, nn

DRAWS = 2**31


class Drawer(nn.Module):
    """Draws training images by class, uniformly and with replacement.

    With the training set sorted by class and laid out as a ring, the images of other classes than y
    are the N - n_y places that follow the block of y. Draws are 31-bit integers scaled down to that
    number, so that a place's chance is off by at most N / 2^31 of itself.

    Args:
        train_labels: (N,) labels of the training set.

    Raises:
        ValueError: when there is only one class.
    """

    order: Tensor
    start: Tensor
    count: Tensor

    def __init__(self, train_labels: Tensor) -> None:
        super().__init__()
        labels = train_labels.long()
        count = labels.bincount()
        if count.count_nonzero() < 2:
            raise ValueError("train_labels holds only 1 class; negatives come from others.")
        # all three follow from train_labels, so they stay out of the state dict
        ring = labels.argsort(stable=True).repeat(2)  # twice around saves the remainder
        self.register_buffer("order", ring, persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("count", count, persistent=False)

    def other_classes(self, labels: Tensor, num_draws: int) -> Tensor:
        """(n, num_draws) images whose class is not that of labels (n,)."""
        start, count = self.start[labels, None], self.count[labels, None]
        places = self._uniform(len(self.order) // 2 - count, num_draws).add_(start + count)
        return self.order.index_select(0, places.flatten()).view_as(places)

    def same_class(self, labels: Tensor) -> Tensor:
        """(n,) images of the class of labels (n,)."""
        return self.order[self.start[labels] + self._uniform(self.count[labels, None], 1)[:, 0]]

    def _uniform(self, below: Tensor, num_draws: int) -> Tensor:
        draws = torch.randint(DRAWS, (len(below), num_draws), device=below.device)
        return draws.mul_(below).bitwise_right_shift_(31)

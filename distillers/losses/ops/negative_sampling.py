"""Training images of the same and of other classes, drawn on the device by index arithmetic."""

import torch
from torch import Tensor, nn

BITS = 31
MASK = 2**BITS - 1


class NegativeSampler(nn.Module):
    """Draws training images by class, uniformly and with replacement.

    With the training set sorted by class and laid out as a ring, the images of other classes than y
    are the N - n_y places that follow the block of y. A draw is a 31-bit integer u scaled down to
    that number, so that a place's chance is off by at most N / 2^31 of itself.

    No generator is asked: u is a hash of a seed, the number of the step, the image and the number
    of the draw. So an image gets the same draws on every device and in whichever process it is, and
    what is drawn next is told by the state dict. Draw k of image i is a_i x_k mod 2^31, with a_i
    odd: each image's draws are as independent of each other as the x_k are, while those of
    two images in one step are related, which a sum over an image's own draws does not see.

    Args:
        train_labels: (N,) labels of the training set.

    Raises:
        ValueError: when there is only one class.
    """

    order: Tensor
    start: Tensor
    count: Tensor
    seed: Tensor
    step: Tensor

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
        self.register_buffer("seed", torch.randint(MASK, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def advance(self) -> None:
        """Go on to the draws of the next step."""
        self.step += 1

    def sample_other_classes(self, labels: Tensor, index: Tensor, num_draws: int) -> Tensor:
        """(n, num_draws) images whose class is not that of images index (n,), labels (n,)."""
        start, count = self.start[labels, None], self.count[labels, None]
        draws = self._draws(index, num_draws)
        places = _scaled(draws, len(self.order) // 2 - count).add_(start + count)
        return self.order.index_select(0, places.flatten()).view_as(places)

    def sample_same_class(self, labels: Tensor, index: Tensor) -> Tensor:
        """(n,) images of the class of images index (n,), labels (n,)."""
        places = _scaled(self._draws(~index, 1), self.count[labels, None])
        return self.order[self.start[labels] + places[:, 0]]

    def _draws(self, index: Tensor, num_draws: int) -> Tensor:
        """(n, num_draws) integers of 31 bits."""
        key = _mixed(self.seed + _mixed(self.step & MASK))
        columns = _mixed(key + torch.arange(num_draws, device=index.device))
        rows = _mixed(~key + _mixed(index)) | 1
        return (rows[:, None] * columns).bitwise_and_(MASK)


def _scaled(draws: Tensor, below: Tensor) -> Tensor:
    """Draws (n, m), in place, brought to 0 .. below (n, 1) - 1."""
    return draws.mul_(below).bitwise_right_shift_(BITS)


def _mixed(x: Tensor) -> Tensor:
    """A hash of integers to 31 bits: two rounds of xor with the upper bits and multiplication."""
    x = x & MASK
    for factor in (0x2C1B3C6D, 0x297A2D39):
        x = ((x ^ (x >> 15)) * factor) & MASK
    return x ^ (x >> 15)

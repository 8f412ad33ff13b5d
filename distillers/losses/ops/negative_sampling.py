"""Sample training images of the same and of other classes on the device, without a generator."""

import torch
from torch import Tensor, nn

BITS = 31
MASK = 2**BITS - 1


class NegativeSampler(nn.Module):
    """Sample training images by class, uniformly and with replacement.

    The training set is sorted by class and treated as a ring, so that the images of other classes
    than y are the N - n_y positions after the block of y. A draw is a 31-bit integer u, scaled to
    that range; the probability of a position deviates from uniform by a factor of at most 1 + N /
    2^31.

    u is a hash of seed, step, image and number of the draw. So the draws of an image do not depend
    on the device or the process, and the state dict determines all later draws. Draw k of image i
    is a_i x_k mod 2^31 with odd a_i: the draws of one image are as independent of each other as the
    x_k. Those of two images in one step are related, which does not affect a sum over the draws of
    one image.

    Args:
        train_labels: (N,) labels of the training set; images without a label (-1) are not drawn.

    Raises:
        ValueError: if there is only one class.
    """

    order: Tensor
    start: Tensor
    count: Tensor
    seed: Tensor
    step: Tensor

    def __init__(self, train_labels: Tensor) -> None:
        super().__init__()
        labels = train_labels.long()
        count = labels[labels >= 0].bincount()
        classes = int(count.count_nonzero())
        if classes < 2:
            raise ValueError(
                f"train_labels has only {classes} class; negatives must be of other classes."
            )
        # not in the state dict: all three follow from train_labels
        by_class = labels.argsort(stable=True)[(labels < 0).sum() :]
        ring = by_class.repeat(2)  # two rounds avoid a modulo
        self.register_buffer("order", ring, persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("seed", torch.randint(MASK, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def num_images(self) -> int:
        """Number of images that can be drawn: those with a label."""
        return len(self.order) // 2

    def advance(self) -> None:
        """Advance to the draws of the next step."""
        self.step += 1

    def sample_other_classes(self, labels: Tensor, index: Tensor, num_draws: int) -> Tensor:
        """Sample (n, num_draws) images of other classes than `labels` (n,), for images `index`."""
        start, count = self.start[labels, None], self.count[labels, None]
        draws = self._draws(index, num_draws)
        positions = _scaled(draws, self.num_images - count).add_(start + count)
        return self.order.index_select(0, positions.flatten()).view_as(positions)

    def sample_same_class(self, labels: Tensor, index: Tensor) -> Tensor:
        """Sample (n,) images of the classes of images `index` (n,), `labels` (n,)."""
        positions = _scaled(self._draws(~index, 1), self.count[labels, None])
        return self.order[self.start[labels] + positions[:, 0]]

    def _draws(self, index: Tensor, num_draws: int) -> Tensor:
        """Return 31-bit integers (n, num_draws)."""
        key = mixed(self.seed + mixed(self.step))
        columns = mixed(key + torch.arange(num_draws, device=index.device))
        rows = mixed(~key + mixed(index)) | 1
        return (rows[:, None] * columns).bitwise_and_(MASK)


def _scaled(draws: Tensor, below: Tensor) -> Tensor:
    """Scale 31-bit integers (n, m) in place to the range 0 .. below (n, 1) - 1."""
    return draws.mul_(below).bitwise_right_shift_(BITS)


def mixed(x: Tensor) -> Tensor:
    """Hash integers to 31 bits: two rounds of xor-shift and multiplication."""
    x = x & MASK
    for factor in (0x2C1B3C6D, 0x297A2D39):
        x = ((x ^ (x >> 15)) * factor) & MASK
    return x ^ (x >> 15)

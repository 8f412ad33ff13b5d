"""Apply a policy to batches of images, with operations grouped over the images of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distillers.data.augment.draws import uniforms
from distillers.data.augment.kernels import kernels
from distillers.data.augment.operations import GEOMETRIC, matrices
from distillers.data.augment.policies import Chain, Draw, Group, Policy


class Augmenter:
    """A policy for batches of images.

    The augmentation of an image is a function of the seed, the image and the turn: it depends on
    neither the batch, the device nor the process. The arguments of the operations are computed on
    the CPU, and nothing waits for the device.

    Args:
        policy: draws the operations.
        mean: c numbers, the color of pixels from outside of the image, where 0 is black and 1 is
            white.
        seed: any integer.
        stream: keeps the draws of several policies for the same image apart.
        device: of the images.
    """

    def __init__(
        self,
        policy: Policy,
        mean: Sequence[float],
        *,
        seed: int,
        stream: int,
        device: torch.device,
    ) -> None:
        self._policy = policy
        fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
        self._kernels = kernels(fill.to(device))
        self._seed, self._stream = seed, stream

    def __call__(self, images: Tensor, rows: Tensor, turns: Tensor) -> Tensor:
        """Return augmented images.

        Args:
            images: (n, c, h, w) uint8; they are not changed.
            rows: (n,) int64 on the CPU, rows of the images in the training set.
            turns: (n,) int64 on the CPU, the epoch, or the fixed view of each.
        """
        count = self._policy.num_draws
        draws = uniforms(self._seed, self._stream, turns.numpy(), rows.numpy(), count)
        return self.apply(images, self._policy.draw(draws))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images (n, c, h, w) uint8, augmented as drawn."""
        if draw.weights is None or draw.kept is None:
            return self._run(images, draw.chains[0])
        total = images * _column(draw.kept, images.device)
        for chain, weights in zip(draw.chains, draw.weights.T, strict=True):
            total += self._run(images, chain) * _column(weights, images.device)
        return total.add_(0.5).clamp_(0, 255).to(torch.uint8)

    def _run(self, images: Tensor, chain: Chain) -> Tensor:
        images = images.clone()
        for layer in chain:
            for group in merge_groups(layer, *images.shape[-2:]):
                rows = torch.from_numpy(group.rows).to(images.device, non_blocking=True)
                arguments = torch.from_numpy(group.arguments.astype(np.float32))
                arguments = arguments.to(images.device, non_blocking=True)
                images[rows] = self._kernels[group.kernel](images[rows], arguments)
        return images


def merge_groups(layer: Sequence[Group], height: int, width: int) -> list[Group]:
    """Return the groups of a layer with those of one kernel together, for images in pixels."""
    found: dict[str, list[Group]] = {}
    for group in layer:
        if group.kernel in GEOMETRIC:
            values = matrices(group.kernel, group.arguments[:, 0], height, width)
            group = Group("affine", group.rows, values)
        found.setdefault(group.kernel, []).append(group)
    return [
        Group(
            kernel,
            np.concatenate([group.rows for group in groups]),
            np.concatenate([group.arguments for group in groups]),
        )
        for kernel, groups in found.items()
    ]


def _column(values: np.ndarray, device: torch.device) -> Tensor:
    """Return one number for each image, to be multiplied with (n, c, h, w)."""
    column = torch.from_numpy(values.astype(np.float32))[:, None, None, None]
    return column.to(device, non_blocking=True)

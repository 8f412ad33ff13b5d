"""Random erasing of normalized images."""

import numpy as np
import torch
from torch import Tensor

from distillers.data.augment.boxes import NUM_DRAWS, draw_boxes
from distillers.data.augment.draws import uniforms

AREA, RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of what is erased


def random_erasing(
    images: Tensor, rows: Tensor, turns: Tensor, *, prob: float, seed: int, stream: int
) -> Tensor:
    """Fill a box of some images with noise of mean 0 and standard deviation 1, in place.

    "Random Erasing Data Augmentation", Zhong, Zheng, Kang, Li and Yang, 2020,
    https://arxiv.org/abs/1708.04896, as timm's --remode pixel. Which box of which images, and the
    noise, are a function of the seed, the image and the turn.

    Args:
        images: (n, c, h, w), normalized; they are changed, and returned.
        rows: (n,) int64 on the CPU, rows of the images in the training set.
        turns: (n,) int64 on the CPU, the epoch, or the fixed view of each.
        prob: probability that an image has a box.
        seed: any integer.
        stream: keeps these draws apart from others of the same image.
    """
    draws = uniforms(seed, stream, turns.numpy(), rows.numpy(), NUM_DRAWS + 2)
    height, width = images.shape[-2:]
    boxes, fits = draw_boxes(draws[:, 2:], height, width, AREA, RATIO)
    for number in np.flatnonzero((draws[:, 0] < prob) & fits):
        top, left, tall, wide = boxes[number]
        rng = torch.Generator().manual_seed(int(draws[number, 1] * 2**53))
        noise = torch.randn(images.shape[1], tall, wide, generator=rng)
        place = (number, slice(None), slice(top, top + tall), slice(left, left + wide))
        images[place] = noise.to(images.device, images.dtype, non_blocking=True)
    return images

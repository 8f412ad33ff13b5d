"""Boxes of random area and ratio, for cropping and erasing."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[int, int, int, int]  # top, left, height and width, in pixels
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops, as in Inception
TRIES = 10
NUM_DRAWS = 2 * TRIES + 2  # random numbers that each image needs


def draw_boxes(
    draws: np.ndarray,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw boxes as RandomResizedCrop does: the first of ten that fits, at a random place.

    The draws are (n, NUM_DRAWS) in (0, 1). `scale` and `ratio` are the ranges of the area, where 1
    is that of the image, and of the width divided by the height.

    Returns:
        (n, 4) int64, top, left, height and width in pixels; and (n,) bool, whether one of the drawn
        boxes fits. If not, all four numbers are 0.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:, :TRIES])
    low, high = np.log(ratio)
    shape = np.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
    wide, tall = np.rint(np.sqrt(area * shape)), np.rint(np.sqrt(area / shape))
    fit = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    rows, first = np.arange(len(draws)), fit.argmax(1)
    wide, tall = wide[rows, first], tall[rows, first]
    top = np.floor(draws[:, -2] * (height - tall + 1))
    left = np.floor(draws[:, -1] * (width - wide + 1))
    fits = fit.any(1)
    values = np.stack([top, left, tall, wide], axis=1) * fits[:, None]
    return values.astype(np.int64), fits


def central_box(height: int, width: int, ratio: Sequence[float]) -> Box:
    """Return top, left, height and width of the largest central box with a ratio in a range."""
    shape = min(max(width / height, ratio[0]), ratio[1])
    tall, wide = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def resized_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """Return boxes (n, 4) of images (n, c, h, w) uint8, enlarged bilinearly to the images' size."""
    height, width = images.shape[-2:]
    top, left, tall, wide = boxes.float()[..., None, None].unbind(1)
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    x = torch.arange(width, device=images.device) + 0.5
    down = top + (y * (tall / height)).clamp(min=0.5).minimum(tall - 0.5)
    across = left + (x * (wide / width)).clamp(min=0.5).minimum(wide - 0.5)
    grid = torch.stack(torch.broadcast_tensors(across * (2 / width), down * (2 / height)), -1) - 1
    found = F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return (found + 0.5).to(torch.uint8)

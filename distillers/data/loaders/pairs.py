"""Check images against their labels."""

import torch
from torch import Tensor

from distillers.errors import InputError


def check_images_and_labels(what: str, images: Tensor, labels: Tensor) -> None:
    """Check shapes and types of images and labels.

    Args:
        what: beginning of the error message.
        images: must be (N, c, h, w) uint8, N at least 1, c 1 or 3.
        labels: must be (N,) int64.

    Raises:
        InputError: if they are invalid or there are none.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{what}: images are {tuple(images.shape)} {images.dtype}; "
            "they must be (N, 1 or 3, h, w) torch.uint8."
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise InputError(
            f"{what}: labels are {tuple(labels.shape)} {labels.dtype}; "
            "they must be (N,) torch.int64."
        )
    if len(images) != len(labels):
        raise InputError(f"{what}: there are {len(images)} images but {len(labels)} labels.")
    if images.numel() == 0:
        raise InputError(f"{what}: there are no images.")

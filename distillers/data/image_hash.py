"""Hashes of the training images, by which they are recognized in any order and under any name."""

import hashlib

import torch
from torch import Tensor

from distillers.data.datasets.folder_set import FolderSet
from distillers.data.datasets.images import ImageSet
from distillers.data.source import DataSource
from distillers.errors import InputError

HASH_BYTES = 16


def image_hashes(source: DataSource) -> Tensor:
    """Return a hash of each training image, (N, 16) uint8: of its file, or of its pixels in memory.

    Raises:
        InputError: if a file cannot be read, or the data set has no images.
    """
    found = torch.empty(len(source.train_labels), HASH_BYTES, dtype=torch.uint8)
    for row in range(len(found)):
        digest = hashlib.blake2b(_content(source, row), digest_size=HASH_BYTES).digest()
        found[row] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    return found


def image_name(source: DataSource, row: int) -> str:
    """Return the path of a training image, or its number if it is in memory."""
    if isinstance(source, FolderSet):
        return source.train.paths[int(source.train_rows[row])]
    return f"training image {row}"


def _content(source: DataSource, row: int) -> bytes:
    if isinstance(source, ImageSet):
        return source.train_images[row].numpy().tobytes()
    try:
        with open(image_name(source, row), "rb") as stream:
            return stream.read()
    except OSError as error:
        raise InputError(f"{image_name(source, row)} cannot be read: {error.strerror}.") from error

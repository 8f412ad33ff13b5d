"""Find images that a data set has more than once, by a hash of their content."""

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping

from torch import Tensor

from distillers.data.datasets.folder_set import FolderSet
from distillers.data.datasets.images import ImageSet
from distillers.data.datasets.listing import PathList
from distillers.data.fingerprint import MANY_FILES
from distillers.data.source import DataSource
from distillers.files import sha256


def copies_of_test_images(source: DataSource, test: DataSource) -> list[str]:
    """Return training images that are test images, too, found by a hash of the content.

    In files the bytes are compared, in memory the pixels of images without labels: published data
    sets have a few copies of their own. Of more than `MANY_FILES` files, too, only those without
    labels are compared.

    Returns:
        paths, or the numbers of the training images.
    """
    rows = (source.train_labels < 0).nonzero().flatten()
    if isinstance(source, FolderSet) and isinstance(test, FolderSet):
        every = source.train_rows
        ours = _sizes(source.train.paths, every if len(every) <= MANY_FILES else every[rows])
        theirs = _sizes(test.test.paths, test.test_rows) if ours else {}
        common = set(ours.values()) & set(theirs.values())
        known = {sha256(path) for path, size in theirs.items() if size in common}
        return [path for path, size in ours.items() if size in common and sha256(path) in known]
    if not len(rows):
        return []
    assert isinstance(source, ImageSet)
    assert isinstance(test, ImageSet)
    known = {image.numpy().tobytes() for image in test.test_images.contiguous()}
    images = source.train_images
    return [f"image {row}" for row in rows.tolist() if images[row].numpy().tobytes() in known]


def copies_in_other_classes(source: DataSource) -> list[str]:
    """Return training images whose file also lies in another class, found by a hash of the bytes.

    Data sets in memory and those of more than `MANY_FILES` labelled images are not examined.

    Returns:
        the equal files, joined by "=", as in "cat/1.jpg = dog/7.jpg".
    """
    known = source.train_labels >= 0
    if not isinstance(source, FolderSet) or int(known.sum()) > MANY_FILES:
        return []
    sizes = _sizes(source.train.paths, source.train_rows[known])
    label_of = dict(zip(sizes, source.train_labels[known].tolist(), strict=True))
    candidates = [path for paths in _in_several_classes(sizes, label_of) for path in paths]
    hashes = {path: sha256(path) for path in candidates}
    root = source.train.paths.root
    return [
        " = ".join(os.path.relpath(path, root) for path in paths)
        for paths in _in_several_classes(hashes, label_of)
    ]


def _in_several_classes(
    keys: Mapping[str, Hashable], label_of: Mapping[str, int]
) -> list[list[str]]:
    """Return each group of paths with equal keys whose labels differ."""
    same = defaultdict(list)
    for path, key in keys.items():
        same[key].append(path)
    return [paths for paths in same.values() if len({label_of[path] for path in paths}) > 1]


def _sizes(paths: PathList, rows: Tensor) -> dict[str, int]:
    return {path: os.path.getsize(path) for path in map(paths.__getitem__, rows.tolist())}

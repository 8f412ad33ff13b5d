"""Hashes that identify a set of training images."""

import hashlib
import os

import torch
from torch import Tensor

from distillers.data.datasets.listing import PathList
from distillers.errors import InputError

MANY_FILES = 200_000  # from this number of files on, sizes are not read at the start of every run


def hash_tensors(*tensors: Tensor) -> str:
    """Hash the bytes, shapes and types of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_labels(labels: Tensor) -> str:
    """Return a hash of labels (N,), or a fixed text if some images have none.

    What a teacher computes does not depend on labels, so runs that differ in which few images have
    one can share a cache.
    """
    return "some images have none" if bool((labels < 0).any()) else hash_tensors(labels)


def hash_files(paths: PathList, rows: Tensor, *, times: bool = True) -> str:
    """Hash the names, sizes and modification times of some files, without reading their content.

    Without `times` the modification times are left out, which a copy of the files does not keep,
    and of more than `MANY_FILES` the sizes.

    Raises:
        InputError: for a file that does not exist any more.
    """
    digest = hashlib.blake2b(digest_size=16)
    root = os.path.join(os.fsencode(paths.root), b"")
    sizes = times or len(rows) <= MANY_FILES
    for name in paths.below(rows.tolist()):
        if not sizes:
            digest.update(name + b"\n")
            continue
        try:
            status = os.stat(root + name)
        except OSError as error:
            path = os.fsdecode(root + name)
            raise InputError(f"cannot access {path}: {error.strerror}.") from error
        digest.update(b"%s %d" % (name, status.st_size))
        digest.update(b" %d\n" % status.st_mtime_ns if times else b"\n")
    return digest.hexdigest()

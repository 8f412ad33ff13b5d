"""Set how the C library reuses memory on a CPU."""

import ctypes
import sys
from collections.abc import Callable

# Numbers of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes


def reuse_freed_memory() -> None:
    """Let this process keep freed blocks of up to 1 GiB for the next step.

    By default glibc maps every block of over 32 MiB anew, and the system fills it with zeros page
    by page, which takes 4 % of SemCKD's step on 32 x 32 images and more on larger ones. Without
    glibc nothing happens.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, KEPT)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def release_freed_memory() -> None:
    """Return freed blocks to the system.

    Called where the sizes of blocks change, as between training and evaluation: blocks that were
    kept for the one rarely fit the other, and would add to the peak.
    """
    malloc_trim = _libc_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _libc_function(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None if the C library is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None

"""Memory of a device and of this process: what is free, and how the C library reuses it."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from distillers.checkpoints.published import num_parameters
from distillers.config.sizes import format_bytes
from distillers.errors import InputError

FLOAT32 = 4  # bytes
MEMINFO = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int | None:
    """Return the free bytes of a device's memory; None if they are unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def check_fits(name: str, num_bytes: int, device: torch.device) -> None:
    """Check that the weights of the teacher `name` fit the free memory of a device.

    Raises:
        InputError: if they do not.
    """
    free = free_bytes(device)
    if free is not None and num_bytes > free:
        advice = "take a smaller teacher"
        if device.type != "cpu":
            advice = f"add --teacher_precision bfloat16, --shard over several devices, or {advice}"
        raise InputError(
            f"the teacher {name} has {format_bytes(num_bytes)} of weights, and {device} has "
            f"{format_bytes(free)} of free memory; {advice}."
        )


def check_published_fits(name: str, device: torch.device, width: float = FLOAT32) -> None:
    """Check that a network by name fits the memory before it is built.

    It is built in single precision on the CPU, and then moved to the device, where a weight has
    `width` bytes.

    Raises:
        InputError: if it does not fit, or there is no such network.
    """
    count = num_parameters(name)
    if count is None:
        return
    check_fits(name, count * FLOAT32, torch.device("cpu"))
    if device.type != "cpu":
        check_fits(name, int(count * width), device)


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

"""Check that a teacher fits the memory of a device before it is loaded."""

from pathlib import Path

import torch

from distillers.config.sizes import show_bytes
from distillers.errors import InputError

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
    """Check that the weights of a teacher fit the free memory of a device.

    Args:
        name: of the teacher, for the message.
        num_bytes: of its weights.
        device: where it will be.

    Raises:
        InputError: if they do not.
    """
    free = free_bytes(device)
    if free is not None and num_bytes > free:
        raise InputError(
            f"the teacher {name} has {show_bytes(num_bytes)} of weights, and {device} has "
            f"{show_bytes(free)} of free memory; add --teacher_precision bfloat16, --shard over "
            "several devices, or take a smaller teacher."
        )

"""Where a loss must not lose digits: half-precision inputs are raised to float32, nothing else."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in at least float32 (float64 stays float64)."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on the device of `x` keep their inputs' precision."""
    return torch.autocast(x.device.type, enabled=False)

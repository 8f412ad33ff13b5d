"""Keep losses at float32 or higher under automatic mixed precision."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Cast float16 and bfloat16 tensors to float32; others are returned unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """Return a context that disables autocast on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False)

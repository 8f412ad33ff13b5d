"""What all processes of a distributed run hold, for memories that must be the same in each."""

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def from_all_ranks(x: Tensor) -> Tensor:
    """(processes n, ...) from (n, ...) of each, in the order of ranks; `x` where there is but one.

    Every process must call it, with the same n. No gradient passes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x.detach()
    together = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(together, x.detach().contiguous())
    return together

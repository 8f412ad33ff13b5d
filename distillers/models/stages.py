"""Build the stages of convolutional networks, and name what is read in them."""

from collections.abc import Callable, Sequence

from torch import nn


def make_stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    out_channels: int,
    stride: int,
    num_blocks: int,
) -> nn.Sequential:
    """Return the blocks of one resolution, of which the first changes channels and resolution."""
    first = block(in_channels, out_channels, stride)
    others = [block(out_channels, out_channels, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *others)


def last_relus(num_blocks: Sequence[int]) -> tuple[str, ...]:
    """Return the path of the last activation of each stage, `layer1` and following."""
    return tuple(f"layer{n}.{count - 1}.last_relu" for n, count in enumerate(num_blocks, start=1))

"""Build, initialize and name the stages of the convolutional networks of this package."""

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


def init_kaiming_normal(net: nn.Module, linear_std: float | None = None) -> None:
    """Initialize convolutions by He et al., ICCV 2015, arXiv:1502.01852, in "fan_out" mode.

    The weights of a convolution get variance 2 / (kernel area x output channels / groups), its bias
    0. Batch normalization keeps scale 1 and shift 0, the default of torch.

    Args:
        net: the network to initialize in place.
        linear_std: standard deviation of the weights of linear layers, whose bias is then 0; None
            keeps the default of torch.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)

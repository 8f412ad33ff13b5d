"""Initialize the weights of the networks of this package."""

from torch import nn


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

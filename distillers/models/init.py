"""The initial weights that the published networks of this package start from."""

from torch import nn


def initialise_normal(net: nn.Module, linear_std: float | None = None) -> None:
    """Draw the convolutions as He et al., ICCV 2015, arXiv:1502.01852, counting outputs.

    A convolution's weights get variance 2 / (kernel area x output channels / groups), its bias 0.
    Batch normalisation is left at scale 1 and shift 0, where torch starts it.

    Args:
        net: the network to initialise in place.
        linear_std: standard deviation of the linear layers' weights, their bias then being 0;
            None leaves them to torch.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)

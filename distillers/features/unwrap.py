"""Find the network inside modules that only wrap it."""

from torch import nn


def unwrap(net: nn.Module) -> tuple[str, nn.Module]:
    """Return the path and the module of the network inside its wrappers; ("", net) if unwrapped.

    A wrapper is a module in which one child alone has weights of a layer, such as
    `nn.Sequential(normalize, net)`, `DataParallel`, or a module that calls `self.backbone`. What a
    network declares about itself, such as the `taps` of this library or the `pretrained_cfg` of
    timm, is declared by the module returned here.
    """
    path = ""
    while True:
        with_layers = [(name, child) for name, child in net.named_children() if _has_layers(child)]
        is_layer = any(weight.ndim > 1 for weight in net.parameters(recurse=False))
        is_wrapper = len(with_layers) == 1 and not is_layer and not _declares(net)
        if not is_wrapper or isinstance(net, nn.ModuleList | nn.ModuleDict):
            return path, net
        name, child = with_layers[0]
        path, net = f"{path}.{name}" if path else name, child


def _declares(net: nn.Module) -> bool:
    """Return whether a module declares facts about itself as a network."""
    return any(
        getattr(net, name, None) is not None
        for name in ("taps", "pretrained_cfg", "feature_info", "forward_intermediates")
    )


def _has_layers(module: nn.Module) -> bool:
    return any(weight.ndim > 1 for weight in module.parameters())

"""Find the taps of a network that declares none, by watching one forward."""

import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.taps import Taps, evaluating


def find_taps(net: nn.Module, images: Tensor) -> Taps:
    """The taps that a network declares as `taps`, else those found by rule.

    The rule: the head is the last linear layer that gives the logits; a stage ends with the last
    module whose output has its spatial size; sizes that only one convolution reaches at the very
    start are the stem's. Outputs that are overwritten in place later do not count.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        images: (n, c, h, w), any content, of the size that the network will see.

    Raises:
        InputError: when the network shows no linear head or no feature map.
    """
    declared = getattr(net, "taps", None)
    if isinstance(declared, Taps):
        return declared
    seen, logits = _watch(net, images)
    maps = [(path, out) for path, module, out in seen if _is_map(out)]
    heads = [
        path
        for path, module, out in seen
        if isinstance(module, nn.Linear) and out.shape == logits.shape
    ]
    if not maps or not heads:
        raise InputError(
            f"{type(net).__name__} shows {len(maps)} feature maps and {len(heads)} linear layers that "
            "give its logits; say where to read it, as in "
            "Taps(maps=('blocks.3', 'blocks.7'), head='fc')."
        )
    last_of_size = {tuple(out.shape[2:]): path for path, out in maps}
    convolutions = [
        (path, tuple(out.shape[2:]))
        for path, module, out in seen
        if isinstance(module, nn.Conv2d) and _is_map(out)
    ]
    stem = next((path for path, _ in convolutions), None)
    first_size = tuple(maps[0][1].shape[2:])
    if len(last_of_size) > 1 and sum(size == first_size for _, size in convolutions) <= 1:
        stem = last_of_size.pop(first_size)
    return Taps(maps=tuple(last_of_size.values()), head=heads[-1], stem=stem)


def _is_map(out: Tensor) -> bool:
    return out.ndim == 4 and out.shape[2] * out.shape[3] > 1


@torch.no_grad()
def _watch(net: nn.Module, images: Tensor) -> tuple[list[tuple[str, nn.Module, Tensor]], Tensor]:
    """Every module with a tensor output that is still intact, in the order in which they finish."""
    seen: list[tuple[str, nn.Module, Tensor, int]] = []
    handles = []
    for path, module in net.named_modules():
        if path:

            def keep(
                module: nn.Module, args: tuple, output: object, path: str = path
            ) -> None:
                if isinstance(output, Tensor):
                    seen.append((path, module, output, output._version))

            handles.append(module.register_forward_hook(keep))
    try:
        with evaluating(net):
            logits = net(images)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"{type(net).__name__} must return logits (n, classes).")
    times_run: dict[str, int] = {}
    for path, *_ in seen:
        times_run[path] = times_run.get(path, 0) + 1
    intact = [
        (path, module, out)
        for path, module, out, version in seen
        if out._version == version and times_run[path] == 1
    ]
    return intact, logits

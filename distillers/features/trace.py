"""One forward of a network, trace: what every module took in and gave, in order."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.features.taps import eval_mode


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a module.

    Attributes:
        path: of the module.
        module: itself.
        input: its first argument, where that is a tensor.
        input_version: how often `input` had been written to when it came in.
        output: its output.
        output_version: how often `output` had been written to when it came out.
    """

    path: str
    module: nn.Module
    input: Tensor | None
    input_version: int
    output: Tensor
    output_version: int

    @property
    def intact(self) -> bool:
        """Whether the output was left as it is until the end of the forward."""
        return self.output._version == self.output_version

    @property
    def depth(self) -> int:
        """How deep the module lies, 0 for a child of the network."""
        return self.path.count(".")


class ForwardTrace:
    """The calls of one forward of two images, in evaluation mode, without gradient.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        images: (n, c, h, w), any content, of the size that the network will see.

    Attributes:
        net: the network.
        images: the two images.
        prefix: the tokens before those of the image, where the network tells, as timm's do.
        logits: (2, k).
        calls: every call that gave a tensor, in the order in which they ended.

    Raises:
        InputError: when the network returns anything but logits.
    """

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        self.net = net
        self.images = images[:2]
        self.prefix = _prefix_of(net)
        self.calls: list[Call] = []
        self.logits = self._run()
        self._count: dict[str, int] = {}
        for call in self.calls:
            self._count[call.path] = self._count.get(call.path, 0) + 1

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the images."""
        return self.images.shape[2], self.images.shape[3]

    def ran_once(self, path: str) -> bool:
        """Whether a module ran exactly once."""
        return self._count.get(path) == 1

    def readable(self) -> list[Call]:
        """The calls of modules that ran once and whose output, one row an image, is intact."""
        n = len(self.images)
        return [
            call
            for call in self.calls
            if call.intact and self.ran_once(call.path) and call.output.shape[:1] == (n,)
        ]

    @torch.no_grad()
    def _run(self) -> Tensor:
        taken: dict[str, list[tuple[Tensor | None, int]]] = {}
        handles = []
        for path, module in self.net.named_modules():
            if not path:
                continue

            def before(_: nn.Module, args: tuple, path: str = path) -> None:
                first = args[0] if args and isinstance(args[0], Tensor) else None
                version = -1 if first is None else first._version
                taken.setdefault(path, []).append((first, version))

            def after(module: nn.Module, _: tuple, output: object, path: str = path) -> None:
                first, version = taken[path].pop()
                if isinstance(output, Tensor):
                    call = Call(path, module, first, version, output, output._version)
                    self.calls.append(call)

            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
        try:
            with eval_mode(self.net):
                logits = self.net(self.images)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(f"{type(self.net).__name__} must return logits (n, classes).")
        return logits


def _prefix_of(net: nn.Module) -> int | None:
    found = (getattr(module, "num_prefix_tokens", None) for module in net.modules())
    return next((count for count in found if isinstance(count, int)), None)

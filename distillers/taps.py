"""Where a network is read: stem, stage maps, final map, pooled embedding, logits, in one forward."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillers.errors import InputError, unknown

KINDS = ("logits", "pooled", "maps", "final", "preacts", "stem")


@dataclass(frozen=True)
class Taps:
    """The module paths at which a network is read.

    A network may declare its own as an attribute `taps`; for any other they are found by rule.

    Attributes:
        maps: modules whose OUTPUT is the feature map of a stage, in order, stem not among them.
        head: the classifier; the pooled embedding is its INPUT.
        stem: the module whose OUTPUT is the stem's map.
        final: the module whose OUTPUT is the map that gets pooled into the embedding; the last of
            `maps` where it is left out.
        preacts: activation modules, one a stage, whose INPUT is the map before the last activation.
    """

    maps: tuple[str, ...]
    head: str
    stem: str | None = None
    final: str | None = None
    preacts: tuple[str, ...] = ()

    def places(self, kind: str) -> list[tuple[str, str]]:
        """The (module path, "in" or "out") pairs that `kind` is read from; none for "logits"."""
        if kind == "maps":
            return [(path, "out") for path in self.maps]
        if kind == "preacts":
            return [(path, "in") for path in self.preacts]
        if kind == "pooled":
            return [(self.head, "in")]
        if kind == "final":
            return [(self.final or self.maps[-1], "out")]
        if kind == "stem":
            return [(self.stem, "out")] if self.stem else []
        return []


@dataclass(frozen=True)
class Shapes:
    """What losses must know of a network: widths and sizes, read off one probing forward.

    Attributes:
        channels: one count a stage map.
        sizes: one (h, w) a stage map.
        dim: width of the pooled embedding.
        num_classes: width of the logits.
    """

    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    dim: int
    num_classes: int


class Reader:
    """Reads a network while it runs, by hooks, only what is wanted.

    Not a module on purpose: it can hold a frozen teacher without registering it anywhere.

    Args:
        net: any module that maps images (n, c, h, w) to logits (n, k).
        taps: where to read it.
        wanted: some of "logits", "pooled", "maps", "final", "preacts", "stem".

    Raises:
        InputError: for a kind that the taps do not show, or a path that the network does not have.
    """

    def __init__(self, net: nn.Module, taps: Taps, wanted: Iterable[str]) -> None:
        self.net = net
        self.taps = taps
        self.wanted = sorted(set(wanted))
        self._seen: dict[tuple[str, str], Tensor] = {}
        self._versions: dict[tuple[str, str], int] = {}
        self._reading = False
        self._handles = []
        for kind in self.wanted:
            places = taps.places(kind)
            if not places and kind != "logits":
                raise InputError(
                    f"{type(net).__name__} declares no {kind} taps; name them, as in "
                    f"Taps(maps={taps.maps}, head={taps.head!r}, {kind}=...)."
                )
        places = {place for kind in self.wanted for place in taps.places(kind)}
        for path, side in sorted(places):
            self._watch(path, side)

    def __call__(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """Run the network once on images (n, c, h, w); the wanted values by kind.

        Raises:
            InputError: when a value was overwritten in place after it was read.
        """
        self._seen, self._versions, self._reading = {}, {}, True
        try:
            logits = self.net(images)
            self._refuse_overwritten()
            return {kind: self._collect(kind, logits) for kind in self.wanted}
        finally:
            self._seen, self._reading = {}, False

    def close(self) -> None:
        """Remove every hook from the network."""
        for handle in self._handles:
            handle.remove()

    def _watch(self, path: str, side: str) -> None:
        module = module_at(self.net, path)

        def keep(value: object) -> None:
            if not self._reading:
                return
            if not isinstance(value, Tensor):
                raise InputError(f"{path} gives a {type(value).__name__}, not a tensor; tap another module.")
            if (path, side) in self._seen:
                raise InputError(f"{path} runs more than once in a forward; tap another module.")
            if side == "in" and getattr(module, "inplace", False):
                value = value.clone()  # the module is about to overwrite its input
            self._seen[path, side] = value
            if not torch.compiler.is_compiling():
                self._versions[path, side] = value._version

        if side == "out":
            self._handles.append(module.register_forward_hook(lambda _, args, output: keep(output)))
        else:
            self._handles.append(module.register_forward_pre_hook(lambda _, args: keep(args[0])))

    def _refuse_overwritten(self) -> None:
        if torch.compiler.is_compiling():
            return  # checked in the probing forward, which is never compiled
        for (path, side), version in self._versions.items():
            if self._seen[path, side]._version != version:
                raise InputError(
                    f"the {side}put of {path} is overwritten in place later in the forward; tap a later "
                    "module, or build the network without inplace=True there."
                )

    def _collect(self, kind: str, logits: Tensor) -> Tensor | list[Tensor]:
        if kind == "logits":
            return logits
        try:
            values = [self._seen[place] for place in self.taps.places(kind)]
        except KeyError as missing:
            raise InputError(f"{missing.args[0][0]} did not run in the forward; tap another module.") from None
        if kind in ("maps", "preacts"):
            return values
        return values[0].flatten(1) if kind == "pooled" else values[0]


def module_at(net: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path.

    Raises:
        InputError: when there is none, with the nearest path that exists.
    """
    modules = dict(net.named_modules())
    if path not in modules or not path:
        known = [name for name in modules if name and name.count(".") <= path.count(".")]
        raise unknown(f"module in {type(net).__name__} called", path, known)
    return modules[path]


@torch.no_grad()
def measure(net: nn.Module, taps: Taps, images: Tensor) -> Shapes:
    """Probe the network once, in evaluation mode, and read its shapes.

    Args:
        net: the network.
        taps: where to read it.
        images: (n, c, h, w), any content.
    """
    reader = Reader(net, taps, ("logits", "pooled", "maps"))
    try:
        with evaluating(net):
            values = reader(images)
    finally:
        reader.close()
    maps, pooled, logits = values["maps"], values["pooled"], values["logits"]
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"{type(net).__name__} must return logits (n, classes).")
    for path, each in zip(taps.maps, maps, strict=True):
        if each.ndim != 4:
            raise InputError(f"{path} gives a {each.ndim}-d tensor, a stage map needs (n, c, h, w).")
    return Shapes(
        channels=tuple(each.shape[1] for each in maps),
        sizes=tuple((each.shape[2], each.shape[3]) for each in maps),
        dim=pooled.shape[1],
        num_classes=logits.shape[1],
    )


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """`net` in evaluation mode, every module's own mode restored afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

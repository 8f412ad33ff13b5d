"""Where a network is read: stem, stage maps, final map, embedding, logits, in one forward."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distillers.errors import InputError, unknown
from distillers.features.layout import Layout

Place = tuple[str, str]  # a module path, and "in" or "out"

MOST_NAMES = 12  # that an error lists

KINDS = ("logits", "pooled", "maps", "final", "preacts", "stem")


@dataclass(frozen=True)
class Taps:
    """The module paths at which a network is read.

    A network may declare its own as an attribute `taps`; for any other they are found by rule.

    Attributes:
        maps: modules whose OUTPUT is the feature map of a stage, in order, stem not among them;
            none for a network that has no such maps.
        head: the classifier; the pooled embedding is its INPUT, averaged over the places where it
            is still a map. Empty for a network of which only the logits can be read.
        stem: the module whose OUTPUT is the stem's map.
        final: the module whose OUTPUT is the map that gets pooled into the embedding; the last of
            `maps` where it is left out. The path of `head` itself stands for the embedding as a map
            of 1 x 1, for a network in which no map's mean is the embedding: it reads a class token,
            say, or normalises after pooling.
        preacts: activation modules, one a stage, whose INPUT, the last time that they run, is the
            map before the last activation. An empty path stands for the stage's map itself, where
            it is not activated.
        layouts: the layout of each place, a path and "in" or "out", that does not give (n, c, h, w)
            as it is; recorded by `distillers.features.infer.find_taps`.
    """

    maps: tuple[str, ...]
    head: str
    stem: str | None = None
    final: str | None = None
    preacts: tuple[str, ...] = ()
    layouts: tuple[tuple[Place, Layout], ...] = ()

    def places(self, kind: str) -> list[Place]:
        """The (module path, "in" or "out") pairs that `kind` is read from; none for "logits"."""
        if kind == "maps":
            return [(path, "out") for path in self.maps]
        if kind == "preacts":
            own = (*self.maps, *self.preacts)  # as long as either
            pairs = zip(self.preacts, own, strict=False)
            return [(path, "in") if path else (stage, "out") for path, stage in pairs]
        if kind == "pooled":
            return [(self.head, "in")] if self.head else []
        if kind == "final":
            path = self.final or (self.maps[-1] if self.maps else "")
            return [(path, "in" if path == self.head else "out")] if path else []
        if kind == "stem":
            return [(self.stem, "out")] if self.stem else []
        return []

    def under(self, prefix: str) -> "Taps":
        """The same places of a network that is a submodule, called `prefix`, of another."""

        def deeper(path: str) -> str:
            return f"{prefix}.{path}"

        return Taps(
            maps=tuple(map(deeper, self.maps)),
            head=self.head and deeper(self.head),
            stem=self.stem and deeper(self.stem),
            final=self.final and deeper(self.final),
            preacts=tuple(path and deeper(path) for path in self.preacts),
            layouts=tuple(((deeper(path), side), each) for (path, side), each in self.layouts),
        )


def with_maps(taps: Taps, maps: Sequence[str]) -> Taps:
    """`taps` with other stage maps; what belongs to the former stages is left out.

    Args:
        taps: where the network is read.
        maps: paths of the modules whose outputs are the stage maps, in order.
    """
    final = taps.final or (taps.maps[-1] if taps.maps else None)
    return replace(taps, maps=tuple(maps), final=final, preacts=(), layouts=())


@dataclass(frozen=True)
class Shapes:
    """What losses must know of a network: widths and sizes, read off one probing forward.

    Attributes:
        channels: one count a stage map; none where the network shows no maps.
        sizes: one (h, w) a stage map.
        dim: width of the pooled embedding; 0 where the network shows none.
        num_classes: width of the logits.
    """

    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    dim: int
    num_classes: int


class FeatureExtractor:
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
        self._layouts = dict(taps.layouts)
        self._seen: dict[Place, Tensor] = {}
        self._versions: dict[Place, int] = {}
        self._reading = False
        self._handles = []
        self._head = module_at(net, taps.head) if taps.head else None
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
        last = side == "in" and path in self.taps.preacts  # an activation may run several times

        def keep(value: object) -> None:
            if not self._reading:
                return
            if not isinstance(value, Tensor):
                raise InputError(
                    f"{path} gives a {type(value).__name__}, not a tensor; tap another module."
                )
            if (path, side) in self._seen and not last:
                raise InputError(f"{path} runs more than once in a forward; tap another module.")
            if side == "in" and getattr(module, "inplace", False):
                value = value.clone()  # the module is about to overwrite its input
            self._seen[path, side] = value
            if not torch.compiler.is_compiling():
                self._versions[path, side] = value._version

        if side == "out":
            handle = module.register_forward_hook(lambda *called: keep(called[2]))
        else:
            handle = module.register_forward_pre_hook(lambda *called: keep(called[1][0]))
        self._handles.append(handle)

    def _refuse_overwritten(self) -> None:
        if torch.compiler.is_compiling():
            return  # checked in the probing forward, which is never compiled
        for (path, side), version in self._versions.items():
            if self._seen[path, side]._version != version:
                raise InputError(
                    f"the {side}put of {path} is overwritten in place later in the forward; tap "
                    "a later module, or build the network without inplace=True there."
                )

    def _collect(self, kind: str, logits: Tensor) -> Tensor | list[Tensor]:
        if kind == "logits":
            return logits
        try:
            values = [self._seen[place] for place in self.taps.places(kind)]
        except KeyError as missing:
            raise InputError(
                f"{missing.args[0][0]} did not run in the forward; tap another module."
            ) from None
        if kind == "pooled":
            return embedding(self._head, values[0])
        if kind == "final" and self.taps.final == self.taps.head:
            return embedding(self._head, values[0])[:, :, None, None]
        for i, place in enumerate(self.taps.places(kind)):
            if place in self._layouts:
                values[i] = self._layouts[place].arrange(values[i])
        return values if kind in ("maps", "preacts") else values[0]


def embedding(head: nn.Module | None, taken: Tensor) -> Tensor:
    """(n, d) of what a classifier takes in: flattened, or averaged where it classifies each place.

    Args:
        head: the classifier.
        taken: its input.
    """
    if isinstance(head, nn.Conv2d):
        return taken.mean((2, 3))
    if isinstance(head, nn.Linear) and taken.ndim > 2:
        return taken.flatten(1, -2).mean(1)
    return taken.flatten(1)


def module_at(net: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path.

    Raises:
        InputError: when there is none, with the nearest path that exists.
    """
    modules = dict(net.named_modules())
    if path not in modules or not path:
        known = [name for name in modules if name and name.count(".") <= path.count(".")]
        if len(known) > MOST_NAMES:
            known = difflib.get_close_matches(path, known, n=MOST_NAMES, cutoff=0)
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
    kinds = [kind for kind in ("maps", "pooled") if taps.places(kind)]
    reader = FeatureExtractor(net, taps, ("logits", *kinds))
    try:
        with eval_mode(net):
            values = reader(images)
    finally:
        reader.close()
    maps, pooled, logits = values.get("maps", []), values.get("pooled"), values["logits"]
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"{type(net).__name__} must return logits (n, classes).")
    for path, each in zip(taps.maps, maps, strict=True):
        if each.ndim != 4:
            raise InputError(
                f"{path} gives a {each.ndim}-d tensor, a stage map needs (n, c, h, w)."
            )
    return Shapes(
        channels=tuple(each.shape[1] for each in maps),
        sizes=tuple((each.shape[2], each.shape[3]) for each in maps),
        dim=pooled.shape[1] if isinstance(pooled, Tensor) else 0,
        num_classes=logits.shape[1],
    )


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """`net` in evaluation mode, every module's own mode restored afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

"""Name the modules at which a network is read: stem, stage maps, final map, embedding."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from distillers.errors import unknown
from distillers.features.layout import Layout

Place = tuple[str, str]  # a module path, and "in" or "out"

MAX_SUGGESTIONS = 12  # paths that an error lists

KINDS = ("logits", "pooled", "maps", "final", "preacts", "stem")
# Also what only some architectures show: a linear classifier behind average pooling, and tokens.
ALL_KINDS = (*KINDS, "class_maps", "tokens")
LISTS = ("maps", "preacts", "tokens")  # kinds with one tensor for each stage or block


@dataclass(frozen=True)
class Taps:
    """Paths of the modules at which a network is read.

    A network may declare its own in an attribute `taps`; for others they are inferred, see
    `distillers.features.infer`.

    Attributes:
        maps: modules whose output is the feature map of a stage, in order, without the stem; empty
            for a network without such maps.
        head: the classifier. The pooled embedding is its input, averaged over the positions if it
            is a map. Empty for a network of which only the logits can be read.
        stem: module whose output is the map of the stem.
        final: module whose output is the map that is pooled into the embedding; by default the last
            of `maps`. If it is the path of `head`, the embedding is read as a map of 1 x 1: for
            networks in which the embedding is not the mean of a map, because they read a class
            token or normalize after pooling.
        preacts: one activation module for each stage; its input, at its last call, is the map
            before the last activation. An empty path means the stage map, if it has no activation.
        tokens: modules whose outputs are the tokens (n, t, d) of each transformer block, in order,
            the last one after the normalization of the last block's output, if there is one.
        layouts: layout of each place, a path and "in" or "out", whose value is not (n, c, h, w);
            set by `distillers.features.infer`.
    """

    maps: tuple[str, ...]
    head: str
    stem: str | None = None
    final: str | None = None
    preacts: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    layouts: tuple[tuple[Place, Layout], ...] = ()

    def places(self, kind: str) -> list[Place]:
        """Return the places, (module path, "in" or "out"), of `kind`; empty for "logits"."""
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
        if kind == "class_maps":
            return self.places("final") if self.head and self.final != self.head else []
        if kind == "tokens":
            return [(path, "out") for path in self.tokens]
        if kind == "stem":
            return [(self.stem, "out")] if self.stem else []
        return []

    def under(self, prefix: str) -> "Taps":
        """Return the taps of a network that contains this one as its submodule `prefix`."""

        def prefixed(path: str) -> str:
            return f"{prefix}.{path}"

        return Taps(
            maps=tuple(map(prefixed, self.maps)),
            head=self.head and prefixed(self.head),
            stem=self.stem and prefixed(self.stem),
            final=self.final and prefixed(self.final),
            preacts=tuple(path and prefixed(path) for path in self.preacts),
            tokens=tuple(map(prefixed, self.tokens)),
            layouts=tuple(((prefixed(path), side), each) for (path, side), each in self.layouts),
        )


def declare_inner_taps(wrapper: nn.Module, net: nn.Module) -> None:
    """Declare the taps of `net` as those of a wrapper that has it as its attribute `net`."""
    declared = getattr(net, "taps", None)
    if isinstance(declared, Taps):
        object.__setattr__(wrapper, "taps", declared.under("net"))


def with_maps(taps: Taps, maps: Sequence[str]) -> Taps:
    """Return `taps` with other stage maps, without pre-activations and layouts of the old ones."""
    final = taps.final or (taps.maps[-1] if taps.maps else None)
    return replace(taps, maps=tuple(maps), final=final, preacts=(), layouts=())


def module_at(net: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a dotted path.

    Raises:
        InputError: if there is none; the message suggests the nearest path.
    """
    modules = dict(net.named_modules())
    if path not in modules or not path:
        known = [name for name in modules if name and name.count(".") <= path.count(".")]
        if len(known) > MAX_SUGGESTIONS:
            known = difflib.get_close_matches(path, known, n=MAX_SUGGESTIONS, cutoff=0)
        raise unknown(f"module in {type(net).__name__} called", path, known)
    return modules[path]

"""Where a network is read: stem, stage maps, final map, pooled embedding, by module path."""

from dataclasses import dataclass


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

"""Find the networks whose weights have the shapes of a state dict."""

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from distillers import models
from distillers.errors import InputError
from distillers.models.external import EXTRA_LOGITS, native_size
from distillers.models.registry import LARGE_IMAGES, SMALL_IMAGES

SIZES = (32, 224)  # image sizes of the networks in `SMALL_IMAGES` and in `LARGE_IMAGES`
PROBES = (7, 11)  # numbers of classes, to see which shapes depend on them
COUNTERS = "num_batches_tracked"  # missing in files from before 2018
MAX_TOKENS = 8  # entries of a table of positions that belong to no patch
MAX_TABLES = 4  # weights that depend on the size of the images, for all sizes to be tried
MAX_SIZE = 4096
OTHER_SIZES = range(32, 513, 16)  # tried last, for patches that overlap

Shapes = dict[str, tuple[int, ...]]


class Fit(NamedTuple):
    """A network by name, as which a state dict can be loaded."""

    name: str
    image_size: int
    num_classes: int


def names_by_shapes(state: dict[str, Tensor]) -> list[Fit]:
    """Return the built-in networks with these weights."""
    wanted = weight_shapes(state)
    prefixes = _top_level(_without_numbers(wanted, {}))
    found = []
    for size, table in zip(SIZES, (SMALL_IMAGES, LARGE_IMAGES), strict=True):
        families: dict[str, list[str]] = {}
        for name, (constructor, _) in table.items():
            families.setdefault(constructor, []).append(name)
        for names in families.values():
            if _top_level(shapes_of(names[0], size, PROBES[0])) != prefixes:
                continue
            classes = num_classes_of(names[0], size, wanted)
            if classes:
                fits = (Fit(name, size, classes) for name in names)
                found += [fit for fit in fits if _has_shapes(fit, wanted)]
    return found


def find_fit(name: str, state: dict[str, Tensor], image_size: int) -> Fit | None:
    """Find the size, `image_size` first, and the number of classes at which a network has weights.

    The number is 0 for the weights of a network without its classifier.

    Raises:
        InputError: if there is no such network.
    """
    wanted = weight_shapes(without_extra_logits(name, state))
    for size in _candidate_sizes(name, wanted, image_size):
        try:
            classes = num_classes_of(name, size, wanted)
            is_own_code = ":" in name and not name.startswith(("timm:", "torchvision:"))
            if classes is None and not is_own_code:  # it can be built without classifier
                classes = 0
            if classes is not None and _has_shapes(fit := Fit(name, size, classes), wanted):
                return fit
        except InputError:  # it has no version for this size
            continue
    return None


def num_classes_of(name: str, image_size: int, wanted: Shapes) -> int | None:
    """Return the number of classes of a network, from the shapes of its weights.

    It is read where the architecture has it, so it does not depend on the order of the weights.
    None if the weights lack the classifier.
    """
    few, many = (shapes_of(name, image_size, probe) for probe in PROBES)
    for key, shape in few.items():
        given = wanted.get(key, ())
        if shape == many[key] or len(given) != len(shape):
            continue
        axis = next(n for n, (a, b) in enumerate(zip(shape, many[key], strict=True)) if a != b)
        per_class = (many[key][axis] - shape[axis]) // (PROBES[1] - PROBES[0])
        return PROBES[0] + (given[axis] - shape[axis]) // max(1, per_class)
    if few == many:  # a network of the user's own with a fixed number of classes
        return next((s[0] for s in reversed(wanted.values()) if len(s) == 2), None)
    return None


def weight_shapes(state: dict[str, Tensor]) -> Shapes:
    """Return the shape of each weight, without the counters of batch normalizations."""
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith(COUNTERS)}


@cache
def shapes_of(name: str, size: int, num_classes: int) -> Shapes:
    """Return the shapes of a network's weights by name."""
    with torch.device("meta"):
        net = models.create(name, num_classes=num_classes, image_size=size)
    return weight_shapes(net.state_dict())


def without_extra_logits(name: str | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the auxiliary classifiers, which exist during training only."""
    library, _, network = (name or "").partition(":")
    extra = EXTRA_LOGITS.get(network, ()) if library == "torchvision" else ()
    return {key: value for key, value in state.items() if key.partition(".")[0] not in extra}


def _has_shapes(fit: Fit, wanted: Shapes) -> bool:
    own = shapes_of(fit.name, fit.image_size, fit.num_classes)
    return own == _without_numbers(wanted, own)


def _without_numbers(wanted: Shapes, own: Shapes) -> Shapes:
    """Drop single numbers that a network does not have, such as counters of averaged weights."""
    return {key: shape for key, shape in wanted.items() if key in own or math.prod(shape) != 1}


def _candidate_sizes(name: str, wanted: Shapes, image_size: int) -> Iterator[int]:
    """Yield image sizes at which the network may have these weights, without repetition."""
    native = native_size(name) or SIZES[1]
    usual = dict.fromkeys((image_size, *SIZES, native))
    yield from usual
    reference = shapes_of(name, native, num_classes_of(name, native, wanted) or PROBES[0])
    tables = [key for key, shape in reference.items() if wanted.get(key) != shape]
    if reference.keys() != _without_numbers(wanted, reference).keys():
        return  # another network
    pairs = [pair for key in tables for pair in zip(reference[key], wanted[key], strict=False)]
    from_tables = [size for own, given in pairs for size in _sizes_by_grid(native, own, given)]
    others = OTHER_SIZES if len(tables) <= MAX_TABLES else ()
    yield from (size for size in dict.fromkeys((*from_tables, *others)) if size not in usual)


def _sizes_by_grid(size: int, entries: int, given: int) -> Iterator[int]:
    """Yield sizes for which a table of positions would have `given` entries.

    At `size` it has `entries`: one for each patch, or for each offset between patches along both
    axes, and a few for class tokens; or one for each patch along one axis.
    """
    ratios = [(given, entries)] if given != entries else []
    for tokens in range(MAX_TOKENS):
        if min(entries, given) > tokens and given != entries:
            side, own = math.isqrt(given - tokens), math.isqrt(entries - tokens)
            if (side**2, own**2) == (given - tokens, entries - tokens):
                ratios += [(side, own), (side + 1, own + 1)]
    for side, own in ratios:
        if size * side % own == 0 and size * side // own <= MAX_SIZE:
            yield size * side // own


def _top_level(shapes: Shapes) -> set[str]:
    return {key.partition(".")[0] for key in shapes}

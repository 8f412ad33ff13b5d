"""Recognise the architecture that a state dict without a card belongs to."""

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from distillers import models
from distillers.errors import MODEL_FLAGS, InputError
from distillers.models.external import EXTRA_LOGITS, native_size
from distillers.models.registry import LARGE_IMAGES, SMALL_IMAGES

SIZES = (32, 224)  # image sizes of the networks in `SMALL_IMAGES` and in `LARGE_IMAGES`
PROBES = (7, 11)  # numbers of classes, to see which shapes depend on them
COUNTERS = "num_batches_tracked"  # missing in files from before 2018
LEAVES = ("weight", "bias", "running_mean", "running_var")
MAX_TOKENS = 8  # entries of a table of positions that belong to no patch
MAX_TABLES = 4  # weights that depend on the size of the images, for all sizes to be tried
MAX_SIZE = 4096
OTHER_SIZES = range(32, 513, 16)  # tried last, for patches that overlap
BY_ORDER = (
    "%s: its weights have other names than those of %s; they were taken in their order, in which "
    "all shapes agree. Compare the accuracy before you trust it."
)

log = logging.getLogger("distillers")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weights:
    """A set of weights in a file.

    Attributes:
        key: where it is in the file, as in "state_dict_ema"; "" for the whole file.
        state: weights by name, without the prefixes of wrappers.
    """

    key: str
    state: dict[str, Tensor]


class Fit(NamedTuple):
    """A network by name, as which a state dict can be loaded."""

    name: str
    image_size: int
    num_classes: int


@dataclass(frozen=True)
class RecognizedNetwork:
    """A network whose architecture was inferred from its weights.

    Attributes:
        net: the network on the CPU, with the weights loaded.
        name: its name in `distillers.models.create`.
        num_classes: number of logits.
        image_size: side of the images in pixels, if it takes only these or was trained for them;
            None if it was not given and any will do.
    """

    net: nn.Module
    name: str
    num_classes: int
    image_size: int | None


def recognize_network(
    candidates: list[Weights], path: str | Path, *, model: str | None, image_size: int | None
) -> RecognizedNetwork:
    """Build the network of a file that has no card, and log which of its weights were taken.

    Args:
        candidates: the sets of weights in the file; the first that fits is taken.
        path: the file, whose folder may name the architecture.
        model: the architecture, if the user named it; the folder's name is ignored then.
        image_size: side of the images in pixels, if known; the weights may be for another size.

    Raises:
        InputError: if the architecture is unknown or does not fit the weights.
    """
    name = model or name_from_folder(path)
    size = image_size or (name and native_size(name)) or SIZES[0]
    fits = ((weights, _fit(name, weights.state, size)) for weights in candidates)
    taken, fit = next(((weights, fit) for weights, fit in fits if fit), (candidates[0], None))
    state = _without_extra_logits(fit.name if fit else name, taken.state)
    if fit is None and model:
        state = _rename_by_order(model, state, path)
        fit = find_fit(model, state, size)
        if fit:
            log.warning(BY_ORDER, path, model)
    if fit is None:
        raise _no_fit(name, model is not None, taken.state, path)
    _log_choice(taken, candidates, path)
    net = models.create(fit.name, num_classes=fit.num_classes, image_size=fit.image_size)
    load_weights(net, state, path)
    is_fixed = native_size(fit.name) is not None or (":" in fit.name and fit.image_size != size)
    own_size = fit.image_size if is_fixed and fit.image_size != image_size else None
    return RecognizedNetwork(net, fit.name, fit.num_classes, own_size)


def name_from_folder(path: str | Path) -> str | None:
    """Return the network that a folder's name refers to, by the conventions of known projects.

    Understands `resnet32x4_vanilla`, `resnet110_cifar100_lr_0.05...`, `cifar100_vgg13_trial_0` and
    `S_resnet8_T_resnet20_...` (also with `S:`, and `kd_cifar100_S_resnet8_T_...`), with the path
    separators of any system. The longest matching name wins.
    """
    folder = Path(str(path).replace("\\", "/")).resolve().parent.name
    _, mark, student = folder.rpartition("_S_")
    folder = student if mark else folder
    for prefix in ("S_", "S:", "S~", "cifar100_", "cifar10_", "imagenet_"):
        folder = folder.removeprefix(prefix)
    fitting = [
        name
        for name in models.names()
        if folder == name or folder.startswith((f"{name}_", f"{name}:", f"{name}~"))
    ]
    return max(fitting, key=len, default=None)


def names_by_shapes(state: dict[str, Tensor]) -> list[Fit]:
    """Return the built-in networks with these weights."""
    wanted = shapes(state)
    prefixes = _top_level(wanted)
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
                fitting = (n for n in names if shapes_of(n, size, classes) == wanted)
                found += [Fit(name, size, classes) for name in fitting]
    return found


def find_fit(name: str, state: dict[str, Tensor], image_size: int) -> Fit | None:
    """Find the size, `image_size` first, and the number of classes at which a network has weights.

    Raises:
        InputError: if there is no such network.
    """
    wanted = shapes(_without_extra_logits(name, state))
    for size in _candidate_sizes(name, wanted, image_size):
        try:
            classes = num_classes_of(name, size, wanted)
            if classes and shapes_of(name, size, classes) == wanted:
                return Fit(name, size, classes)
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


def is_state_dict(values: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether a value is a mapping to tensors, whose elements are all in the file."""
    return isinstance(values, dict) and all(
        isinstance(value, Tensor)
        and (value.device.type, value.layout) == ("cpu", torch.strided)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        for value in values.values()
    )


def load_weights(net: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict strictly.

    Raises:
        InputError: if names or shapes differ; lists the first few differences.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no-op", UserWarning)  # into the meta device
            net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        detail = "; ".join(line if len(line) < 160 else line[:157] + "..." for line in lines)
        raise InputError(f"{path} does not fit {type(net).__name__}: {detail}") from error


def shapes(state: dict[str, Tensor]) -> Shapes:
    """Return the shape of each weight, without the counters of batch normalizations."""
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith(COUNTERS)}


@cache
def shapes_of(name: str, size: int, num_classes: int) -> Shapes:
    """Return the shapes of a network's weights by name."""
    with torch.device("meta"):
        net = models.create(name, num_classes=num_classes, image_size=size)
    return shapes(net.state_dict())


def _candidate_sizes(name: str, wanted: Shapes, image_size: int) -> Iterator[int]:
    """Yield image sizes at which the network may have these weights, without repetition."""
    native = native_size(name) or SIZES[1]
    usual = dict.fromkeys((image_size, *SIZES, native))
    yield from usual
    reference = shapes_of(name, native, num_classes_of(name, native, wanted) or PROBES[0])
    tables = [key for key, shape in reference.items() if wanted.get(key) != shape]
    if reference.keys() != wanted.keys():
        return  # another network
    pairs = [pair for key in tables for pair in zip(reference[key], wanted[key], strict=False)]
    told = [size for own, given in pairs for size in _sizes_by_grid(native, own, given)]
    others = OTHER_SIZES if len(tables) <= MAX_TABLES else ()
    yield from (size for size in dict.fromkeys((*told, *others)) if size not in usual)


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


def _fit(name: str | None, state: dict[str, Tensor], image_size: int) -> Fit | None:
    """Return how the named network has these weights, or else the only built-in one with them."""
    if name:
        return find_fit(name, state, image_size)
    found = names_by_shapes(state)
    return found[0] if len(found) == 1 else None


def _log_choice(taken: Weights, candidates: list[Weights], path: str | Path) -> None:
    """Log which weights were taken and which were left out."""
    keys = [weights.key for weights in candidates]
    taken_and_parts = [key for key in keys if _contains(taken.key, key)]
    others = [k for k in keys if k not in taken_and_parts and not _contains(k, taken.key)]
    others = [k for k in others if not any(_contains(o, k) for o in others if o != k)]
    siblings = taken.key.rpartition(".")[0]
    left = ", ".join(sorted(key.removeprefix(f"{siblings}.") for key in others))
    log.warning(
        "%s: took its weights%s%s; not verified, since it has no checksum.",
        path,
        f" under {taken.key}" if taken.key else "",
        f", {left} left out" if left else "",
    )


def _contains(one: str, other: str) -> bool:
    """Return whether one of two sets of weights is the other or a part of it."""
    return not one or f"{other}.".startswith(f"{one}.")


def _no_fit(
    name: str | None, by_user: bool, state: dict[str, Tensor], path: str | Path
) -> InputError:
    """Return the error for weights of an unknown network, or of another than the named one."""
    found = " or ".join(fit.name for fit in names_by_shapes(state))
    if name is None:
        what = f"; its weights fit {found}" if found else ""
        return InputError(
            f"the architecture of {path} is unknown{what}; name it with {MODEL_FLAGS}, as in "
            "--model_t resnet32x4 (timm:NAME and torchvision:NAME too)."
        )
    source = "the flag" if by_user else f"its folder, {Path(path).resolve().parent.name},"
    if found:
        return InputError(
            f"{path} does not fit {name}, which {source} names; its weights are those of {found}. "
            f"Name it with {MODEL_FLAGS}."
        )
    size = native_size(name) or SIZES[0]
    net = models.create(name, num_classes_of(name, size, shapes(state)) or 100, size)
    try:
        load_weights(net, state, path)
    except InputError as error:
        return error
    return InputError(f"{path} does not fit {name}, which {source} names.")


def _without_extra_logits(name: str | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the auxiliary classifiers, which exist during training only."""
    library, _, network = (name or "").partition(":")
    extra = EXTRA_LOGITS.get(network, ()) if library == "torchvision" else ()
    return {key: value for key, value in state.items() if key.partition(".")[0] not in extra}


def _rename_by_order(name: str, state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Give weights the names of the network's, in their order; no weights if that cannot be.

    The order in a safetensors file is alphabetical and says nothing.
    """
    size = native_size(name) or SIZES[0]
    keys = list(shapes_of(name, size, PROBES[0]))
    given = [key for key in state if not key.endswith(COUNTERS)]
    leaves = [
        (key.rpartition(".")[2], own.rpartition(".")[2])
        for key, own in zip(given, keys, strict=False)
    ]
    misordered = any(leaf != own and leaf in LEAVES and own in LEAVES for leaf, own in leaves)
    if len(given) != len(keys) or misordered or Path(path).suffix == ".safetensors":
        return {}
    return {own: state[key] for own, key in zip(keys, given, strict=True)}


def _top_level(shapes: Shapes) -> set[str]:
    return {key.partition(".")[0] for key in shapes}

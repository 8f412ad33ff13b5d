"""Recognise the architecture that a state dict without a card belongs to."""

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from distillers import models
from distillers.errors import MODEL_FLAGS, InputError
from distillers.models.external import EXTRA_LOGITS
from distillers.models.registry import LARGE_IMAGES, SMALL_IMAGES

SIZES = (32, 224)  # image sizes of the networks in `SMALL_IMAGES` and in `LARGE_IMAGES`
COUNTERS = "num_batches_tracked"  # missing in files from before 2018

log = logging.getLogger("distillers")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RecognizedNetwork:
    """A network whose architecture was inferred from its weights.

    Attributes:
        net: the network on the CPU, with the weights loaded.
        name: its name in `distillers.models.create`.
        num_classes: number of logits.
        image_size: side of the images that it takes, in pixels.
    """

    net: nn.Module
    name: str
    num_classes: int
    image_size: int


def recognize_network(
    state: dict[str, Tensor],
    path: str | Path,
    *,
    model: str | None,
    num_classes: int | None,
    image_size: int,
) -> RecognizedNetwork:
    """Build the network of a state dict that has no card.

    Args:
        state: weights by name, without the prefixes of wrappers.
        path: the file, whose folder may name the architecture.
        model: the architecture, if the user named it; the folder's name is ignored then.
        num_classes: number of classes of the data, for weights without a recognisable classifier.
        image_size: side of the images in pixels; the weights may turn out to be for another size.

    Raises:
        InputError: if the architecture is unknown or does not fit the weights.
    """
    classes = num_classes_of(state) or num_classes
    if classes is None:
        raise InputError(f"the number of classes cannot be inferred from {path}.")
    name = model or name_from_folder(path)
    state = _without_extra_logits(name, state)
    found = _match_name(name, state, classes, image_size) if name else None
    if found is None and model:
        ordered = _load_by_order(model, state, classes, image_size, path)
        if ordered is not None:
            return ordered
    if found is None:
        found = _match_shapes(name, model is not None, state, classes, path)
    net = models.create(found[0], num_classes=classes, image_size=found[1])
    net.load_state_dict(state)
    size = found[1] if ":" in found[0] else image_size
    return RecognizedNetwork(net, found[0], classes, size)


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


def names_by_shapes(state: dict[str, Tensor], num_classes: int) -> list[tuple[str, int]]:
    """Return the built-in networks with these names and shapes, with their image size."""
    wanted = _shapes(state)
    prefixes = _top_level(wanted)
    found = []
    for size, table in zip(SIZES, (SMALL_IMAGES, LARGE_IMAGES), strict=True):
        families: dict[str, list[str]] = {}
        for name, (constructor, _) in table.items():
            families.setdefault(constructor, []).append(name)
        for names in families.values():
            if _top_level(shapes_of(names[0], size, num_classes)) == prefixes:
                fitting = (n for n in names if shapes_of(n, size, num_classes) == wanted)
                found += [(name, size) for name in fitting]
    return found


def num_classes_of(state: dict[str, Tensor]) -> int | None:
    """Return the number of classes, from the last matrix or, without one, the last 1 x 1 kernel."""
    matrices = [value for value in state.values() if value.ndim == 2]
    kernels = [value for value in state.values() if value.shape[2:] == (1, 1)]
    return next((found[-1].shape[0] for found in (matrices, kernels) if found), None)


def load_weights(net: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict strictly.

    Raises:
        InputError: if names or shapes differ; lists the first few differences.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        detail = "; ".join(line if len(line) < 160 else line[:157] + "..." for line in lines)
        raise InputError(f"{path} does not fit {type(net).__name__}: {detail}") from error


@cache
def shapes_of(name: str, size: int, num_classes: int) -> Shapes:
    """Return the shapes of a network's weights by name.

    Args:
        name: as in `distillers.models.create`.
        size: side of its images in pixels.
        num_classes: number of logits.
    """
    with torch.device("meta"):
        net = models.create(name, num_classes=num_classes, image_size=size)
    return _shapes(net.state_dict())


def _without_extra_logits(name: str | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the auxiliary classifiers, which exist during training only."""
    library, _, network = (name or "").partition(":")
    extra = EXTRA_LOGITS.get(network, ()) if library == "torchvision" else ()
    return {key: value for key, value in state.items() if key.partition(".")[0] not in extra}


def _match_name(
    name: str, state: dict[str, Tensor], classes: int, image_size: int
) -> tuple[str, int] | None:
    """Return the name with the image size at which it has these weights, or None."""
    wanted = _shapes(state)
    sizes = (image_size, *SIZES)
    return next(((name, s) for s in sizes if shapes_of(name, s, classes) == wanted), None)


def _match_shapes(
    name: str | None, by_user: bool, state: dict[str, Tensor], classes: int, path: str | Path
) -> tuple[str, int]:
    """Return the only network with these shapes, unless a different one was named."""
    found = names_by_shapes(state, classes)
    names = " or ".join(name for name, _ in found)
    if name is None and len(found) == 1:
        return found[0]
    if name is None:
        what = f"; its weights fit {names}" if found else ""
        raise InputError(
            f"the architecture of {path} is unknown{what}; name it with {MODEL_FLAGS}, as "
            "in --model_t resnet32x4 (timm:NAME and torchvision:NAME too)."
        )
    source = "the flag" if by_user else f"its folder, {Path(path).resolve().parent.name},"
    if found:
        raise InputError(
            f"{path} does not fit {name}, which {source} names; its weights are those of {names}. "
            f"Name it with {MODEL_FLAGS}."
        )
    net = models.create(name, num_classes=classes)
    load_weights(net, state, path)  # raises with the first differences
    raise InputError(f"{path} does not fit {name}, which {source} names.")


def _load_by_order(
    name: str, state: dict[str, Tensor], classes: int, image_size: int, path: str | Path
) -> RecognizedNetwork | None:
    """Load weights whose names differ but whose shapes agree in order; None if they do not."""
    values = [value for key, value in state.items() if not key.endswith(COUNTERS)]
    given = [tuple(value.shape) for value in values]
    sizes = (image_size, SIZES[1])
    size = next((s for s in sizes if [*shapes_of(name, s, classes).values()] == given), None)
    if size is None:
        return None
    log.warning(
        "%s: its weights have other names than those of %s; they were taken in their order, in "
        "which all shapes agree. Compare the accuracy before you trust it.",
        path,
        name,
    )
    net = models.create(name, num_classes=classes, image_size=size)
    keys = [key for key in net.state_dict() if not key.endswith(COUNTERS)]
    net.load_state_dict(dict(zip(keys, values, strict=True)), strict=False)
    return RecognizedNetwork(net, name, classes, size)


def _shapes(state: dict[str, Tensor]) -> Shapes:
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith(COUNTERS)}


def _top_level(shapes: Shapes) -> set[str]:
    return {key.partition(".")[0] for key in shapes}

"""Checkpoints of other projects: which weights in them count, and of which network they are.

Read are the files of RepDistiller, SimKD, SemCKD, mdistiller and of the systems made from them, and
plain state dicts, as timm, torchvision and safetensors have them.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers import models
from distillers.errors import MODEL_FLAGS, InputError
from distillers.models.external import EXTRA_LOGITS
from distillers.models.registry import LARGE_IMAGES, SMALL_IMAGES

STATE_KEYS = ("model", "state_dict", "model_state_dict", "student", "net")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's
STUDENT = "student."  # mdistiller saves student, teacher and what is between as one module
SIZES = (32, 224)  # of the images, for the networks of `SMALL_IMAGES` and of `LARGE_IMAGES`
COUNTERS = "num_batches_tracked"  # which files from before 2018 do not have

log = logging.getLogger("distillers")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Imported:
    """A network out of another project's file.

    Attributes:
        net: on the CPU, its weights loaded.
        name: what `distillers.models.create` calls it.
        num_classes: number of logits.
        image_size: side of the images that it can take, in pixels.
    """

    net: nn.Module
    name: str
    num_classes: int
    image_size: int


def weights(payload: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint, prefixes of wrappers removed, of mdistiller's the student.

    Raises:
        InputError: when there is none.
    """
    state = next((payload[k] for k in STATE_KEYS if isinstance(payload.get(k), dict)), payload)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path} has no state dict: none of {', '.join(STATE_KEYS)} holds one; it has "
            f"{', '.join(map(str, list(payload)[:8]))}."
        )
    state = {_bare(key): value for key, value in state.items()}
    student = {k.removeprefix(STUDENT): v for k, v in state.items() if k.startswith(STUDENT)}
    if not student:
        return state
    others = {key.partition(".")[0] for key in state} - {STUDENT[:-1]}
    if others:
        log.warning("%s: the student is taken, and %s left out.", path, ", ".join(sorted(others)))
    return {_bare(key): value for key, value in student.items()}


def load(
    payload: dict[str, Any],
    path: str | Path,
    *,
    name: str | None,
    num_classes: int | None,
    image_size: int,
) -> Imported:
    """The network of a file without a card of ours.

    Args:
        payload: the content of the file.
        path: of the file; its folder may tell the architecture.
        name: the architecture, where the user tells; then the folder's name is not asked.
        num_classes: of the data, for files that do not tell.
        image_size: side of the images in pixels; a transformer may turn out to be for another.

    Raises:
        InputError: when the architecture is unknown, or is not that of the weights.
    """
    state = weights(payload, path)
    classes = classes_of(state) or num_classes
    if classes is None:
        raise InputError(f"{path} does not tell how many classes there are.")
    told = name or name_from_folder(path)
    state = _without_extra_logits(told, state)
    found = _as_told(told, state, classes, image_size) if told else None
    if found is None and name:
        ordered = _by_order(name, state, classes, image_size, path)
        if ordered is not None:
            return ordered
    if found is None:
        found = _by_shapes(told, name is not None, state, classes, path)
    net = models.create(found[0], num_classes=classes, image_size=found[1])
    net.load_state_dict(state)
    return Imported(net, found[0], classes, found[1] if ":" in found[0] else image_size)


def name_from_folder(path: str | Path) -> str | None:
    """The network that a folder's name speaks of, by the habits of the documented systems.

    `resnet32x4_vanilla`, `resnet110_cifar100_lr_0.05...`, `cifar100_vgg13_trial_0` and
    `S_resnet8_T_resnet20_...` (also with `S:`, also `kd_cifar100_S_resnet8_T_...`) are understood,
    with separators of any system; the longest name that fits wins.
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
    """The networks here that have exactly these names and shapes, with a size of their images."""
    wanted = _shapes(state)
    beginnings = _beginnings(wanted)
    found = []
    for size, table in zip(SIZES, (SMALL_IMAGES, LARGE_IMAGES), strict=True):
        families: dict[str, list[str]] = {}
        for name, (constructor, _) in table.items():
            families.setdefault(constructor, []).append(name)
        for names in families.values():
            if _beginnings(shapes_of(names[0], size, num_classes)) == beginnings:
                fitting = (n for n in names if shapes_of(n, size, num_classes) == wanted)
                found += [(name, size) for name in fitting]
    return found


def classes_of(state: dict[str, Tensor]) -> int | None:
    """The number of classes by the last matrix, the classifier's, or else the last 1 x 1 kernel."""
    matrices = [value for value in state.values() if value.ndim == 2]
    kernels = [value for value in state.values() if value.shape[2:] == (1, 1)]
    return next((found[-1].shape[0] for found in (matrices, kernels) if found), None)


def fill(net: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict, every tensor of it and nothing else.

    Raises:
        InputError: when names or shapes differ, with the first few.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        detail = "; ".join(line if len(line) < 160 else line[:157] + "..." for line in lines)
        raise InputError(f"{path} does not fit {type(net).__name__}: {detail}") from error


def _without_extra_logits(name: str | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those of classifiers that a network has in training only."""
    place, _, there = (name or "").partition(":")
    extra = EXTRA_LOGITS.get(there, ()) if place == "torchvision" else ()
    return {key: value for key, value in state.items() if key.partition(".")[0] not in extra}


def _as_told(
    name: str, state: dict[str, Tensor], classes: int, image_size: int
) -> tuple[str, int] | None:
    """The name with the size of images at which it has these weights, if there is one."""
    wanted = _shapes(state)
    sizes = (image_size, *SIZES)
    return next(((name, s) for s in sizes if shapes_of(name, s, classes) == wanted), None)


def _by_shapes(
    told: str | None, by_user: bool, state: dict[str, Tensor], classes: int, path: str | Path
) -> tuple[str, int]:
    """The one network that has these shapes, where nobody told another."""
    found = names_by_shapes(state, classes)
    names = " or ".join(name for name, _ in found)
    if told is None and len(found) == 1:
        return found[0]
    if told is None:
        what = f"; its weights fit {names}" if found else ""
        raise InputError(
            f"{path} does not tell its architecture{what}; name it with {MODEL_FLAGS}, as "
            "in --model_t resnet32x4 (timm:NAME and torchvision:NAME too)."
        )
    source = "the flag" if by_user else f"its folder, {Path(path).resolve().parent.name},"
    if found:
        raise InputError(
            f"{path} does not fit {told}, which {source} names; its weights are those of {names}. "
            f"Name it with {MODEL_FLAGS}."
        )
    net = models.create(told, num_classes=classes)
    fill(net, state, path)  # which tells what differs
    raise InputError(f"{path} does not fit {told}, which {source} names.")


def _by_order(
    name: str, state: dict[str, Tensor], classes: int, image_size: int, path: str | Path
) -> Imported | None:
    """The named network with weights that differ in names only, taken in their order."""
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
    return Imported(net, name, classes, size)


@cache
def shapes_of(name: str, size: int, num_classes: int) -> Shapes:
    """The shapes of a network's weights by their names.

    Args:
        name: as in `distillers.models.create`.
        size: side of its images in pixels.
        num_classes: number of logits.
    """
    with torch.device("meta"):
        net = models.create(name, num_classes=num_classes, image_size=size)
    return _shapes(net.state_dict())


def _shapes(state: dict[str, Tensor]) -> Shapes:
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith(COUNTERS)}


def _beginnings(keys: Iterable[str]) -> set[str]:
    return {key.partition(".")[0] for key in keys}


def _bare(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key

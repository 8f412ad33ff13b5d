"""Build the network of a state dict without a card, by its name or by the shapes of its weights."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import timm
import torch
from torch import Tensor, nn

from distillers import models
from distillers.checkpoints.shapes import (
    COUNTERS,
    PROBES,
    SIZES,
    Fit,
    find_fit,
    names_by_shapes,
    num_classes_of,
    shapes_of,
    weight_shapes,
    without_extra_logits,
)
from distillers.errors import MODEL_FLAGS, SAVE_WEIGHTS, InputError
from distillers.models.external import native_size

LORA = "lora_"  # in the names of the weights of adapters
MAX_NAMES = 12  # of numbers that were left out
SORTED = (".safetensors", ".json")  # files whose weights are in the order of their names
LEAVES = ("weight", "bias", "running_mean", "running_var")
# What a conversion of timm raises for the weights of another network.
MISFITS = (AttributeError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
BY_ORDER = (
    "%s: its weights have other names than those of %s; they were taken in their order, in which "
    "all shapes agree. Compare the accuracy before you trust it."
)

log = logging.getLogger("distillers")


@dataclass(frozen=True)
class Weights:
    """A set of weights in a file.

    Attributes:
        key: where it is in the file, as in "state_dict_ema"; "" for the whole file.
        state: weights by name, without the prefixes of wrappers.
    """

    key: str
    state: dict[str, Tensor]


@dataclass(frozen=True)
class RecognizedNetwork:
    """A network whose architecture was inferred from its weights.

    Attributes:
        net: the network on the CPU, with the weights loaded.
        name: its name in `distillers.models.create`.
        num_classes: number of logits.
        image_size: side of the images in pixels, if it takes only these or was trained for them;
            None if it was not given and the network accepts any.
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
    taken, fit = _first_fit(name, candidates, size) or (candidates[0], None)
    if fit is None and name:
        renamed = _renamed_by_timm(name, candidates, native_size(name) or size)
        taken, fit = _first_fit(name, renamed, size) or (taken, None)
        if fit:
            log.warning("%s: its weights were renamed as timm does for this network.", path)
    state = without_extra_logits(fit.name if fit else name, taken.state)
    if fit is None and model:
        state = _rename_by_order(model, state, path)
        fit = find_fit(model, state, size)
        if fit:
            log.warning(BY_ORDER, path, model)
    if fit is None:
        raise _no_fit(name, model is not None, taken.state, path)
    net = models.create(fit.name, num_classes=fit.num_classes, image_size=fit.image_size)
    own = net.state_dict()
    extra = [key for key, value in state.items() if key not in own and value.numel() == 1]
    load_weights(net, {key: v for key, v in state.items() if key not in extra}, path)
    _log_choice(taken, candidates, extra, path)
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


def is_state_dict(values: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether a value is a mapping of names to real tensors, all elements of the file."""
    return isinstance(values, dict) and all(
        isinstance(key, str)
        and isinstance(value, Tensor)
        and not value.is_complex()
        and (value.device.type, value.layout) == ("cpu", torch.strided)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        for key, value in values.items()
    )


def load_weights(net: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict strictly.

    Raises:
        InputError: if names or shapes differ, of which it lists the first few, or weights are
            integers, as in a quantized network.
    """
    own = net.state_dict()
    for key, value in state.items():
        is_quantized = not value.is_floating_point() or value.element_size() == 1  # float8
        if key in own and own[key].is_floating_point() and is_quantized:
            raise InputError(
                f"{path} holds {key} as {value.dtype}, which is not a floating-point type of 16 "
                "bits or more; dequantize the network where it is defined. "
                f"{SAVE_WEIGHTS}."
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no-op", UserWarning)  # into the meta device
            net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        detail = "; ".join(line if len(line) < 160 else line[:157] + "..." for line in lines)
        raise InputError(f"{path} does not fit {type(net).__name__}: {detail}") from error


def _first_fit(
    name: str | None, candidates: Iterable[Weights], size: int
) -> tuple[Weights, Fit] | None:
    """Return the first weights of the named network, or else of exactly one built-in network."""
    for weights in candidates:
        found = [find_fit(name, weights.state, size)] if name else names_by_shapes(weights.state)
        if len(found) == 1 and found[0]:
            return weights, found[0]
    return None


def _log_choice(
    taken: Weights, candidates: list[Weights], extra: list[str], path: str | Path
) -> None:
    """Log which weights were taken and which were left out, with `extra` single numbers."""
    keys = [weights.key for weights in candidates]
    others = [k for k in keys if not _contains(taken.key, k) and not _contains(k, taken.key)]
    others = [k for k in others if not any(_contains(o, k) for o in others if o != k)]
    siblings = taken.key.rpartition(".")[0]
    left = ", ".join(sorted(key.removeprefix(f"{siblings}.") for key in others))
    numbers = ", ".join([*extra[:MAX_NAMES], *(["..."] if len(extra) > MAX_NAMES else [])])
    log.warning(
        "%s: took its weights%s%s%s; not verified, since it has no checksum.",
        path,
        f" under {taken.key}" if taken.key else "",
        f", {left} left out" if left else "",
        f", without the numbers {numbers}" if extra else "",
    )


def _contains(one: str, other: str) -> bool:
    """Return whether one of two sets of weights is the other or a part of it."""
    return not one or f"{other}.".startswith(f"{one}.")


def _no_fit(
    name: str | None, by_user: bool, state: dict[str, Tensor], path: str | Path
) -> InputError:
    """Return the error for weights of an unknown network, or of another than the named one."""
    if any(LORA in key for key in state):
        return InputError(
            f"{path} has the matrices of an adapter (LoRA), not whole weights; merge them into the "
            f"network where it is defined (PEFT: net.merge_and_unload()). {SAVE_WEIGHTS}."
        )
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
    net = models.create(name, num_classes_of(name, size, weight_shapes(state)) or 100, size)
    try:
        load_weights(net, state, path)
    except InputError as error:
        return error
    return InputError(f"{path} does not fit {name}, which {source} names.")


def _rename_by_order(name: str, state: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Give weights the names of the network's, in their order; no weights if that cannot be.

    The order in a safetensors file is alphabetical, so it cannot be used.
    """
    size = native_size(name) or SIZES[0]
    keys = list(shapes_of(name, size, PROBES[0]))
    given = [key for key in state if not key.endswith(COUNTERS)]
    leaves = [
        (key.rpartition(".")[2], own.rpartition(".")[2])
        for key, own in zip(given, keys, strict=False)
    ]
    misordered = any(leaf != own and leaf in LEAVES and own in LEAVES for leaf, own in leaves)
    if len(given) != len(keys) or misordered or Path(path).suffix in SORTED:
        return {}
    return {own: state[key] for own, key in zip(keys, given, strict=True)}


def _renamed_by_timm(name: str, candidates: Iterable[Weights], size: int) -> Iterator[Weights]:
    """Yield sets of weights as timm reads them from the files of DINOv2, MAE, Swin and others.

    Nothing is yielded if `name` is no network of timm; it is built for images of `size` pixels.
    """
    library, _, network = name.partition(":")
    if library != "timm":
        return
    module = sys.modules[timm.model_entrypoint(network).__module__]
    convert: Any = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return
    net = models.create(name, image_size=size)
    for weights in candidates:
        try:
            with torch.no_grad():
                state = convert(dict(weights.state), net)
        except MISFITS:
            continue
        if isinstance(state, dict):
            yield replace(weights, state=state)

"""Build the network of a checkpoint that this library wrote, from its card."""

from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from distillers import models
from distillers.checkpoints.architecture import (
    load_weights,
    name_from_folder,
    num_classes_of,
    shapes,
)
from distillers.checkpoints.io import FORMAT
from distillers.errors import MODEL_FLAGS, InputError
from distillers.losses import wiring


def model_name(path: str | Path, card: dict[str, Any], model: str | None = None) -> str:
    """Return the architecture by the card, else as given, else by the name of the file's folder.

    Raises:
        InputError: if none of them names it.
    """
    name = card.get("model") or model or name_from_folder(path)
    if name is None:
        raise InputError(f"the architecture of {path} is unknown; name it with {MODEL_FLAGS}.")
    return name


def build_network(
    payload: dict[str, Any], path: str | Path, model: str | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a checkpoint with a card, and complete the card.

    A deployed network with more than its architecture, as some losses make it, is rebuilt by the
    `rebuild` of its loss.

    Args:
        payload: the content of the file.
        path: the file, for messages.
        model: the architecture, if the user named it; it must agree with the card.

    Raises:
        InputError: if the card is of a newer version, names code outside of distillers that the
            user did not name, or does not fit the weights.
    """
    card = payload["card"]
    if card.get("format", FORMAT) > FORMAT:
        raise InputError(f"{path} was written by a newer version of distillers; update to read it.")
    name = model_name(path, card, model)
    if _is_user_code(name) and name != model:
        raise InputError(
            f"the card of {path} names {name!r}, code outside of distillers. If you trust it, name "
            f"it yourself with {MODEL_FLAGS}."
        )
    if model not in (None, name):
        raise InputError(f"{path} is a {name}, not a {model}.")
    state = payload.get("model")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} has no state dict: `model` does not hold one.")
    size = card.get("image_size", 32)
    classes = card.get("num_classes") or num_classes_of(name, size, shapes(state))
    if classes is None:
        raise InputError(f"the number of classes cannot be inferred from {path}.")
    net = models.create(name, num_classes=classes, image_size=size)
    if card.get("deploy"):
        net = _rebuild(net, card["deploy"], path)
    load_weights(net, state, path)
    accuracy = payload.get("best_acc", payload.get("accuracy"))
    evaluated = {"accuracy": accuracy} if isinstance(accuracy, float) else {}
    return net, {**card, "num_classes": classes, **evaluated}


def _rebuild(net: nn.Module, deploy: dict[str, Any], path: str | Path) -> nn.Module:
    """Return the network as its loss deployed it, with any weights."""
    if ":" in deploy["name"]:
        raise InputError(
            f"{path} needs {deploy['name']!r}, code outside of distillers, to be built again; "
            "import that loss and call its `rebuild` yourself."
        )
    return cast(Any, wiring.find(deploy["name"])).rebuild(net, deploy)


def _is_user_code(name: str) -> bool:
    """Return whether creating the network would import a module that a file must not choose."""
    return ":" in name and not name.startswith(("timm:", "torchvision:"))

"""Build the network of a checkpoint that this library wrote, from its card."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from distillers import models
from distillers.checkpoints.architecture import (
    is_state_dict,
    load_weights,
    name_from_folder,
)
from distillers.checkpoints.io import FORMAT
from distillers.checkpoints.shapes import num_classes_of, weight_shapes
from distillers.errors import MODEL_FLAGS, InputError
from distillers.losses import wiring


def model_name(path: str | Path, card: dict[str, Any], model: str | None = None) -> str:
    """Return the architecture by the card, else as given, else by the name of the file's folder.

    Raises:
        InputError: if none of them names it, or the card names code outside of distillers that was
            not given: a file must not choose what is imported.
    """
    name = card.get("model") or model or name_from_folder(path)
    if name is None:
        raise InputError(f"the architecture of {path} is unknown; name it with {MODEL_FLAGS}.")
    if ":" in name and not name.startswith(("timm:", "torchvision:")) and name != model:
        raise InputError(
            f"the card of {path} names {name!r}, code outside of distillers. If you trust it, name "
            f"it yourself with {MODEL_FLAGS}."
        )
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
    if model not in (None, name):
        raise InputError(f"{path} is a {name}, not a {model}.")
    state = payload.get("model")
    if not is_state_dict(state):
        raise InputError(f"{path} has no state dict: `model` does not hold one.")
    size = card.get("image_size", 32)
    classes = card.get("num_classes")
    if classes is None:
        classes = num_classes_of(name, size, weight_shapes(state))
    if classes is None:
        raise InputError(f"the number of classes cannot be inferred from {path}.")
    if name != model or ":" not in name:
        with torch.device("meta"):  # a card that does not fit must not take memory
            load_weights(_build(name, classes, size, card.get("deploy"), path), state, path)
    net = _build(name, classes, size, card.get("deploy"), path)
    load_weights(net, state, path)
    accuracy = payload.get("best_acc", payload.get("accuracy"))
    evaluated = {"accuracy": accuracy} if isinstance(accuracy, float) else {}
    return net, {**card, "num_classes": classes, **evaluated}


def _build(
    name: str, num_classes: int, image_size: int, deploy: dict[str, Any] | None, path: str | Path
) -> nn.Module:
    """Return the network, as its loss deployed it, with any weights."""
    net = models.create(name, num_classes=num_classes, image_size=image_size)
    if not deploy:
        return net
    loss = str(deploy.get("name"))
    if ":" in loss:
        raise InputError(
            f"{path} needs {loss!r}, code outside of distillers, to be built again; import that "
            "loss and call its `rebuild` yourself."
        )
    cls = wiring.losses().get(loss)
    if not hasattr(cls, "rebuild"):
        raise InputError(
            f"the card in {path} is not valid: its deploy names {loss!r}, no loss that deploys "
            "another network than the student."
        )
    try:
        return cast(Any, cls).rebuild(net, deploy)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the card in {path} is not valid: its deploy describes no network ({error})."
        ) from error

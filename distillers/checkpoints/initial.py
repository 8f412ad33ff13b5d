"""Build the network that a run starts with: new, or with pretrained weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillers import models
from distillers.checkpoints.load import load
from distillers.checkpoints.shapes import shapes_of
from distillers.config.flags import PUBLISHED
from distillers.errors import InputError, first_line
from distillers.features.extractor import eval_mode
from distillers.models.pretrained import replace_classifier, statistics


@dataclass(frozen=True)
class InitialNetwork:
    """A network on the CPU, and the normalization that its weights expect.

    Attributes:
        net: maps images (n, 3, h, w) to logits.
        mean: mean of the normalization, one number per channel; None if it accepts any.
        std: standard deviation of the normalization; None if it accepts any.
    """

    net: nn.Module
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def build_initial(
    name: str,
    pretrained: str | None,
    *,
    num_classes: int,
    image_size: int,
    drop_path: float | None = None,
    log: Callable[[str], None] = print,
) -> InitialNetwork:
    """Build a network, with pretrained weights if asked for.

    If the weights are for another number of classes, the classifier is replaced by a new one.

    Args:
        name: as in `distillers.models.create`.
        pretrained: a checkpoint of that network, from this library or another project; "published"
            for the weights of timm or torchvision; None for random weights.
        num_classes: number of logits.
        image_size: side of the images in pixels.
        drop_path: rate of stochastic depth; None for the network's default.
        log: receives one line about a loaded file.

    Raises:
        InputError: if the weights are missing, damaged, or of another network, or if the network
            has no stochastic depth.
    """
    if pretrained is None:
        net = models.create(name, num_classes, image_size, drop_path=drop_path)
        return InitialNetwork(net)
    if pretrained == PUBLISHED:
        net = models.create(name, num_classes, image_size, pretrained=True, drop_path=drop_path)
        return InitialNetwork(net, **statistics(net, name))
    loaded = load(pretrained, model=name, image_size=image_size, programs=False)
    net, card = loaded.net, loaded.card
    if card.get("deploy"):
        raise InputError(
            f"{pretrained} holds a {name} with what {card['deploy']['name']} adds to it, which "
            "another run cannot start from; take a network that was trained without it."
        )
    own_size = card.get("image_size", image_size)
    if own_size != image_size and not _fits_size(name, card, own_size, image_size):
        raise InputError(
            f"{pretrained} is for images of {own_size} x {own_size}, not {image_size} x "
            f"{image_size}; add --image_size {own_size}."
        )
    message, classes = f"{name} starts from {pretrained}", card["num_classes"]
    if classes != num_classes:
        message += f", with a new classifier ({num_classes} classes instead of {classes})"
        if classes:
            net = replace_classifier(net, num_classes)
        else:
            net = add_classifier(net, name, num_classes, own_size)
    if drop_path is not None:
        net = with_drop_path(net, name, num_classes, image_size, drop_path)
    log(message)
    return InitialNetwork(net, card.get("mean"), card.get("std"))


def with_drop_path(
    net: nn.Module, name: str, num_classes: int, image_size: int, rate: float
) -> nn.Module:
    """Return network `name` with the weights of `net` and stochastic depth of this rate.

    Raises:
        InputError: if such a network has no stochastic depth.
    """
    deeper = models.create(name, num_classes, image_size, drop_path=rate)
    deeper.load_state_dict(net.state_dict())
    return deeper


def _fits_size(name: str, card: dict[str, Any], own_size: int, image_size: int) -> bool:
    """Return whether a network's weights fit images of another size, too."""
    if "format" not in card:  # another project's; its card has a size only if no other fits
        return False
    own, wanted = (shapes_of(name, size, card["num_classes"]) for size in (own_size, image_size))
    return own == wanted


def check_forward(net: nn.Module, name: str, images: Tensor, num_classes: int) -> None:
    """Check that a network takes images (n, c, h, w) and returns logits (n, num_classes).

    With 0 classes it must return embeddings (n, d) or maps (n, d, h, w).

    Raises:
        InputError: if it does not.
    """
    side = "{2} x {3}".format(*images.shape)
    try:
        with torch.no_grad(), eval_mode(net):
            found = net(images)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the network may be the user's
        reason = first_line(error)
        raise InputError(
            f"{name} cannot take images of {side} ({reason}); another --image_size may do."
        ) from error
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    what = f"{shape or type(found).__name__} for {len(images)} images"
    if num_classes and shape != (len(images), num_classes):
        raise InputError(
            f"{name} gives {what} of {side}; logits of {num_classes} classes are needed."
        )
    is_backbone = len(shape) in (2, 4) and shape[0] == len(images) and 0 not in shape
    if not num_classes and not is_backbone:
        raise InputError(
            f"{name} has no network without classifier (--student_head none): it gives {what}."
        )


def add_classifier(net: nn.Module, name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return network `name` with a new classifier and the weights of `net`, which has none."""
    whole = models.create(name, num_classes, image_size)
    whole.load_state_dict(net.state_dict(), strict=False)
    return whole

"""The network that a run begins with: a new one, or one that has learned something already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints import third_party as foreign
from distillers.config.flags import PUBLISHED
from distillers.errors import InputError
from distillers.features.extractor import eval_mode
from distillers.models.pretrained import statistics, with_classes


@dataclass(frozen=True)
class Start:
    """A network on the CPU, and how its weights want to see images.

    Attributes:
        net: maps images (n, 3, h, w) to logits.
        mean: what the images must be normalised with, or None where any will do.
        std: likewise.
    """

    net: nn.Module
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def network(
    name: str,
    pretrained: str | None,
    *,
    num_classes: int,
    image_size: int,
    say: Callable[[str], None] = print,
) -> Start:
    """Build a network, with weights where they are asked for.

    Where the weights tell another number of classes apart, the classifier is a new one.

    Args:
        name: as in `distillers.models.create`.
        pretrained: a file of weights of that network, ours or of another project; "published" for
            those that timm or torchvision publish; None for new ones.
        num_classes: number of logits.
        image_size: side of the images in pixels.
        say: told what was done with a file.

    Raises:
        InputError: for weights that are not there, are damaged, or are of another network.
    """
    if pretrained is None:
        return Start(models.create(name, num_classes=num_classes, image_size=image_size))
    if pretrained == PUBLISHED:
        net = models.create(name, num_classes, image_size, pretrained=True)
        return Start(net, **statistics(net, name))
    net, card = checkpoint.load_network(pretrained, name=name, image_size=image_size)
    if card.get("deploy"):
        raise InputError(
            f"{pretrained} holds a {name} with what {card['deploy']['name']} adds to it, which is "
            "no start for another run; take a network that was trained without it."
        )
    own_size = card.get("image_size", image_size)
    if own_size != image_size and not _takes(name, card, own_size, image_size):
        raise InputError(
            f"{pretrained} is for images of {own_size} x {own_size}, not {image_size} x "
            f"{image_size}; add --image_size {own_size}."
        )
    began = f"{name} starts from {pretrained}"
    if card["num_classes"] != num_classes:
        began += f", with a new classifier ({num_classes} classes in the place of "
        began += f"{card['num_classes']})"
        net = _for_classes(net, num_classes)
    say(began)
    return Start(net, card.get("mean"), card.get("std"))


def _takes(name: str, card: dict[str, Any], own_size: int, image_size: int) -> bool:
    """Whether a network's weights are those of images of another size, too."""
    if "format" not in card:  # of another project, whose card tells a size where it takes no other
        return False
    classes = card["num_classes"]
    own = foreign.shapes_of(name, own_size, classes)
    return own == foreign.shapes_of(name, image_size, classes)


def try_out(net: nn.Module, name: str, images: Tensor, num_classes: int) -> None:
    """Refuse a network that cannot take the images, or gives no logits of their classes.

    Args:
        net: the network, on the images' device.
        name: what it is called.
        images: (n, c, h, w), a few of those to come.
        num_classes: of the data set.

    Raises:
        InputError: saying what it did.
    """
    side = "{2} x {3}".format(*images.shape)
    try:
        with torch.no_grad(), eval_mode(net):
            logits = net(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name} cannot take images of {side} ({reason}); another --image_size may do."
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (len(images), num_classes):
        raise InputError(
            f"{name} gives {shape} for {len(images)} images of {side}; logits of {num_classes} "
            "classes are needed."
        )


def _for_classes(net: nn.Module, num_classes: int) -> nn.Module:
    """The network with a new classifier."""
    reset: Any = getattr(net, "reset_classifier", None)  # timm's, which knows of several heads
    if reset is None:
        return with_classes(net, num_classes)
    reset(num_classes)
    return net

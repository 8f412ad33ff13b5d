"""Create networks by name: those of distillation papers, timm's, torchvision's and your own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from distillers.errors import InputError, unknown
from distillers.models.registry import LARGE_IMAGES, PUBLISHED, SMALL_IMAGES

if TYPE_CHECKING:
    from torch import nn

LARGEST_SMALL_IMAGE = 64


def names() -> list[str]:
    """Return the names of the networks of this package, without importing torch."""
    return list(SMALL_IMAGES | LARGE_IMAGES)


def create(
    name: str,
    num_classes: int = 100,
    image_size: int = 32,
    pretrained: bool = False,
    drop_path: float | None = None,
) -> nn.Module:
    """Build a network that maps images (n, 3, h, w) to logits (n, num_classes).

    With 0 classes it has no classifier and returns embeddings (n, d).

    Args:
        name: one of `names()`, or `timm:NAME`, `torchvision:NAME`, or `package.module:callable` for
            a class or function of your own that takes `num_classes`.
        num_classes: number of logits, or 0.
        image_size: side of the images in pixels. `ResNet50` is the papers' CIFAR network up to
            64 pixels and ImageNet's above; networks of a fixed size, such as transformers, are
            built for it.
        pretrained: load the weights that timm or torchvision publish. The networks of this
            package load the first version (IMAGENET1K_V1), as the distillation papers do. If the
            weights are for another number of classes, the classifier is replaced by a new one.
        drop_path: rate of stochastic depth, for networks of timm and torchvision; None for the
            network's default.

    Raises:
        InputError: if there is no such network or weights, or they cannot be downloaded, or the
            network has no stochastic depth.
    """
    if ":" in name:
        from distillers.models import external

        return external.create(name, num_classes, image_size, pretrained, drop_path)
    is_large = name in LARGE_IMAGES and (
        name not in SMALL_IMAGES or image_size > LARGEST_SMALL_IMAGE
    )
    table = LARGE_IMAGES if is_large else SMALL_IMAGES
    if name not in table:
        raise _unknown(name)
    if drop_path is not None:
        raise without_drop_path(name)
    if not num_classes:
        from distillers.models.pretrained import remove_classifier

        return remove_classifier(create(name, 1, image_size, pretrained))
    if not pretrained:
        return _build(table, name, num_classes)
    if not is_large or name not in PUBLISHED:
        raise InputError(
            f"{name} for {image_size} x {image_size} images has no published weights; "
            f"these have: {', '.join(PUBLISHED)} for more than {LARGEST_SMALL_IMAGE} x "
            f"{LARGEST_SMALL_IMAGE}, timm:NAME and torchvision:NAME."
        )
    from distillers.models.pretrained import load_imagenet_v1

    return load_imagenet_v1(_build(table, name, 1000), PUBLISHED[name], num_classes)


def without_drop_path(name: str) -> InputError:
    """Return the error for `drop_path` with a network that has no stochastic depth."""
    return InputError(
        f"{name} has no stochastic depth; leave out --drop_path, or add --drop_path None to a "
        "--recipe that has it."
    )


def _build(table: dict[str, tuple[str, tuple[object, ...]]], name: str, classes: int) -> nn.Module:
    path, arguments = table[name]
    module, _, constructor = path.partition(":")
    build = getattr(import_module(f"distillers.models.{module}"), constructor)
    return build(*arguments, num_classes=classes)


def _unknown(name: str) -> InputError:
    """Return the error for an unknown name, with its matches in timm and torchvision."""
    from distillers.models import external

    same = [known for known in names() if known.lower() == name.lower()]
    found = [*same, *external.prefixed_names(name)]
    if not found:
        return unknown("network", name, names())
    return InputError(f"no network {name!r}, did you mean {' or '.join(map(repr, found))}?")

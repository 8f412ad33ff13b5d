"""Create networks of timm, torchvision and the user's own code."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from torch import nn

from distillers.errors import InputError, unknown
from distillers.models import without_drop_path
from distillers.models.pretrained import (
    check_available,
    remove_classifier,
    replace_classifier,
    timm_overrides,
)

# Auxiliary classifiers of torchvision's networks, which exist during training only.
EXTRA_LOGITS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
FIXED_IN_TORCHVISION = ("vit_", "maxvit_t")  # networks of a fixed image size


def create(
    name: str,
    num_classes: int,
    image_size: int,
    pretrained: bool,
    drop_path: float | None = None,
) -> nn.Module:
    """Build `timm:NAME`, `torchvision:NAME` or `package.module:callable`; see `models.create`."""
    library, _, network = name.partition(":")
    build, option = LIBRARIES.get(library, (None, "drop_path"))
    options = {} if drop_path is None else {option: drop_path}
    if build is None:
        return _from_user(name, num_classes, image_size, pretrained, options)
    try:
        return build(network, num_classes, image_size, pretrained, options)
    except TypeError as error:
        if not options or option not in str(error):
            raise
        raise without_drop_path(name) from error
    except AssertionError as error:  # timm and torchvision assert the size
        raise InputError(
            f"{name} cannot be built for images of {image_size} x {image_size}"
            f"{f': {error}' if str(error) else ''}; take another --image_size."
        ) from error


def prefixed_names(name: str) -> list[str]:
    """Return `torchvision:NAME` and `timm:NAME`, where these libraries have the network."""
    import timm
    from torchvision import models

    in_torchvision = name in models.list_models(module=models)
    in_timm = timm.is_model(name)
    return [f"torchvision:{name}"] * in_torchvision + [f"timm:{name}"] * in_timm


def native_size(name: str) -> int | None:
    """Return the image size that a network was published for; None if it takes any size."""
    import timm

    library, _, network = name.partition(":")
    if library == "torchvision" and network.startswith(FIXED_IN_TORCHVISION):
        return 224
    if library != "timm" or not timm.is_model(network):
        return None
    try:
        config = timm.get_pretrained_cfg(network)
    except RuntimeError:  # an unknown tag, which `create` reports
        return None
    return config.input_size[-1] if config and config.fixed_input_size else None


def _from_timm(
    name: str, num_classes: int, image_size: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise _unknown_among_many("timm network", name, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise unknown("timm network", name, tagged) from error
    if config and config.fixed_input_size:
        options["img_size"] = image_size
    overrides = timm_overrides(name, config) if pretrained else {}
    return timm.create_model(
        name,
        pretrained=pretrained,
        pretrained_cfg_overlay=overrides,
        num_classes=num_classes,
        **options,
    )


def _from_torchvision(
    name: str, num_classes: int, image_size: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown_among_many("torchvision network", name, known)
    if not num_classes:
        return remove_classifier(_from_torchvision(name, 1, image_size, pretrained, options))
    if name.startswith("vit_"):
        options["image_size"] = image_size
    if name == "maxvit_t":
        options["input_size"] = (image_size, image_size)
    if not pretrained:
        if name in EXTRA_LOGITS:
            options |= {"aux_logits": False, "init_weights": True}
        return models.get_model(name, weights=None, num_classes=num_classes, **options)
    weights = models.get_model_weights(name)["DEFAULT"]
    own_size = weights.meta["min_size"][0]
    if "image_size" in options and image_size != own_size:
        raise InputError(
            f"the weights of torchvision:{name} are for {own_size} x {own_size} images, not "
            f"{image_size} x {image_size}; timm's vision transformers take any size."
        )
    check_available(f"torchvision:{name}", weights.url)
    net: Any = models.get_model(name, weights=weights, **options)
    if name in EXTRA_LOGITS:  # as without weights: one classifier, and no renormalization of images
        net.aux_logits = net.transform_input = False
        for extra in EXTRA_LOGITS[name]:
            setattr(net, extra, None)
    return replace_classifier(net, num_classes)


def _from_user(
    path: str, num_classes: int, image_size: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    build = find_callable(path)
    facts = {"num_classes": num_classes, "image_size": image_size, "pretrained": pretrained}
    signature = inspect.signature(build)
    parameters = signature.parameters
    given = {name: fact for name, fact in (facts | options).items() if name in parameters}
    try:
        signature.bind(**given)
    except TypeError:  # another parameter has no default
        given = {}
    if "num_classes" not in given:
        raise InputError(
            f"{path} must take num_classes, may take image_size and pretrained, and must have "
            f"defaults for all other parameters; it takes {', '.join(parameters) or 'nothing'}."
        )
    if options and "drop_path" not in parameters:
        raise without_drop_path(path)
    if pretrained and "pretrained" not in parameters:
        raise InputError(f"{path} takes no pretrained, so it has no pretrained weights.")
    net = build(**given)
    if not isinstance(net, nn.Module):
        raise InputError(f"{path} returns a {type(net).__name__}, not a torch.nn.Module.")
    return net


LIBRARIES = {
    "timm": (_from_timm, "drop_path_rate"),
    "torchvision": (_from_torchvision, "stochastic_depth_prob"),
}


def find_callable(path: str) -> Callable[..., object]:
    """Return the class or function at `package.module:callable`.

    Raises:
        InputError: if there is none; the message suggests the nearest name.
    """
    module_path, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_path.split("."), attribute]):
        raise InputError(
            f"no network {path!r}; write timm:NAME, torchvision:NAME or package.module:callable."
        )
    try:
        module = import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_path}.".startswith(f"{error.name}."):
            raise  # the module exists; one that it imports does not
        raise InputError(
            f"no module {error.name!r} for the network {path!r}; is it installed, or its folder on "
            "PYTHONPATH?"
        ) from error
    except SyntaxError as error:
        raise InputError(f"cannot import the network {path!r}: {error}") from error
    value = getattr(module, attribute, None)
    if callable(value):
        return value
    callables = [name for name, value in vars(module).items() if callable(value)]
    kind = f"class or function in {module_path} called"
    raise _unknown_among_many(kind, attribute, callables)


def _unknown_among_many(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with the nearest of many known ones."""
    near = difflib.get_close_matches(name, known, n=8, cutoff=0.4)
    if near:
        return unknown(kind, name, near)
    return InputError(f"no {kind} {name!r}, nor one with a similar name.")

"""Load a network by its name, with published weights and what they say about their images."""

import inspect
from typing import Any

import torch
from torch import nn

from distillers import models
from distillers.checkpoints.input_adapter import known_interpolation
from distillers.checkpoints.load import Classifier
from distillers.errors import InputError
from distillers.models.external import find_callable
from distillers.models.pretrained import statistics


def load_published(name: str, *, num_classes: int, image_size: int) -> Classifier:
    """Load a network with the weights that were published for it, in evaluation mode on the CPU.

    Its card has "model", "num_classes" (0 without a classifier), and where they are known "mean",
    "std", "image_size", "interpolation" and "class_names".

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `transformers:NAME` for a vision encoder, or
            `package.module:callable`, which must take `num_classes` and `pretrained`.
        num_classes: of the data set, for a callable whose `num_classes` has no default.
        image_size: of the data set, for networks of any size.

    Raises:
        InputError: if there is no such network or weights, or they are neither in the local cache
            nor can be downloaded.
    """
    try:
        net, facts = _load(name, num_classes, image_size)
    except InputError as error:
        if name.startswith("transformers:"):
            advice = "A folder that holds it will do: --path_t transformers:FOLDER."
        else:
            advice = f"A file of its weights will do: --model_t {name} --path_t FILE."
        raise InputError(f"{error} {advice}") from error
    return Classifier(net, {"model": name, **facts})


def num_parameters(name: str) -> int | None:
    """Return the number of parameters of a network by name, without memory for its weights.

    Returns:
        None if it is not known before the network is built: for a `package.module:callable`, and
        for networks that cannot be built on the meta device.

    Raises:
        InputError: if there is no such network.
    """
    library, _, network = name.partition(":")
    try:
        with torch.device("meta"):
            if library == "transformers":
                from distillers.models.hugging_face import empty_encoder

                net = empty_encoder(network)
            elif library in FACTS:
                facts = FACTS[library](network)
                net = models.create(name, facts["num_classes"], facts["image_size"])
            else:
                return None
    except (NotImplementedError, RuntimeError):  # it computes with its weights as it is built
        return None
    return sum(weight.numel() for weight in net.parameters())


def _load(name: str, num_classes: int, image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    library, _, network = name.partition(":")
    if library == "transformers":
        from distillers.models.hugging_face import load_encoder

        net, facts = load_encoder(network)
    elif library in FACTS:
        facts = FACTS[library](network)
        net = models.create(name, facts["num_classes"], facts["image_size"], pretrained=True)
        facts = {**statistics(net, name), **facts}
    else:
        parameter = inspect.signature(find_callable(name)).parameters.get("num_classes")
        default = parameter.default if parameter else None
        classes = default if isinstance(default, int) else num_classes
        net = models.create(name, classes, image_size, pretrained=True)
        facts = {"num_classes": classes, **_declared_facts(net)}
    return net, facts


def _timm_facts(network: str) -> dict[str, Any]:
    """Return the classes and images of timm's published weights."""
    import timm

    try:
        config = timm.get_pretrained_cfg(network) if timm.is_model(network) else None
    except RuntimeError:  # an unknown tag
        config = None
    if config is None:  # `create` raises the error
        models.create(f"timm:{network}", pretrained=True)
        raise InputError(f"timm publishes no weights for {network}.")
    return {
        "num_classes": config.num_classes,
        "image_size": config.input_size[-1],
        "interpolation": known_interpolation(config.interpolation),
    }


def _torchvision_facts(network: str) -> dict[str, Any]:
    """Return the classes and images of torchvision's default weights."""
    from torchvision import models as library

    if network not in library.list_models(module=library):
        models.create(f"torchvision:{network}", pretrained=True)
    weights: Any = library.get_model_weights(network)["DEFAULT"]
    prepare = weights.transforms()
    return {
        "num_classes": len(weights.meta["categories"]),
        "class_names": list(weights.meta["categories"]),
        "image_size": prepare.crop_size[0],
        "interpolation": known_interpolation(prepare.interpolation.value),
        "mean": list(prepare.mean),
        "std": list(prepare.std),
    }


FACTS = {"timm": _timm_facts, "torchvision": _torchvision_facts}


def _declared_facts(net: nn.Module) -> dict[str, Any]:
    """Return the facts on images in the `pretrained_cfg` of a network, as timm's have it."""
    config = getattr(net, "pretrained_cfg", None)
    if not isinstance(config, dict):
        return {}
    facts: dict[str, Any] = statistics(net, "")
    if config.get("input_size"):
        facts["image_size"] = config["input_size"][-1]
    if config.get("interpolation"):
        facts["interpolation"] = known_interpolation(config["interpolation"])
    return facts

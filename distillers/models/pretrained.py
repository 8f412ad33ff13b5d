"""Weights that timm and torchvision publish: find them here, or fail at once where they are not.

Both libraries retry for long when there is no network, and name neither the file nor its place.
"""

from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import nn

from distillers.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from distillers.errors import InputError
from distillers.models.registry import LARGE_IMAGES

PATIENCE_SECONDS = 5.0
TENSORFLOW = ("torchvision:googlenet", "torchvision:inception_v3")  # whence their weights are


def fill(net: nn.Module, torchvision_name: str, num_classes: int) -> nn.Module:
    """Load the first weights that torchvision published for a network, those that papers use.

    Args:
        net: a network of 1,000 classes with torchvision's names and shapes.
        torchvision_name: what torchvision calls it.
        num_classes: number of logits to end with.

    Raises:
        InputError: when the weights are not here and cannot be fetched.
    """
    from torchvision import models

    url = models.get_model_weights(torchvision_name)["IMAGENET1K_V1"].url
    require_file(f"torchvision:{torchvision_name}", url)
    state = torch.hub.load_state_dict_from_url(
        url, map_location="cpu", check_hash=True, weights_only=True
    )
    net.load_state_dict(state)
    return with_classes(net, num_classes)


def with_classes(net: nn.Module, num_classes: int) -> nn.Module:
    """Give a network a new classifier, unless it has `num_classes` logits already.

    The classifier is the last module that is a linear layer or a 1 x 1 convolution.

    Args:
        net: the network, changed in place.
        num_classes: number of logits.
    """
    heads = [
        (path, module)
        for path, module in net.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ]
    path, head = heads[-1]
    has_bias = head.bias is not None
    if isinstance(head, nn.Linear) and head.out_features != num_classes:
        net.set_submodule(path, nn.Linear(head.in_features, num_classes, has_bias))
    elif isinstance(head, nn.Conv2d) and head.out_channels != num_classes:
        net.set_submodule(path, nn.Conv2d(head.in_channels, num_classes, 1, bias=has_bias))
    return net


def statistics(net: nn.Module, name: str) -> dict[str, list[float]]:
    """The mean and std with which published weights of a network want images to be normalised.

    Args:
        net: a network that has such weights; timm's tell it themselves.
        name: as in `distillers.models.create`.

    Returns:
        these two by name; nothing where they are not known.
    """
    told = getattr(net, "pretrained_cfg", None)
    if isinstance(told, dict) and told.get("mean") and told.get("std"):
        return {"mean": list(told["mean"]), "std": list(told["std"])}
    if name in TENSORFLOW:
        return {"mean": [0.5] * 3, "std": [0.5] * 3}
    if name.startswith("torchvision:") or name in LARGE_IMAGES:
        return {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    return {}


def require_file(name: str, url: str) -> None:
    """Make sure that torch's cache has the file of `url`, or that its host answers.

    Args:
        name: the network, for the message.
        url: where its weights are published.

    Raises:
        InputError: when neither holds.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = Path(urlparse(url).path).name
    if not (folder / file).exists():
        _require_answer(name, url, f"{file} is not in {folder}")


def find_timm(name: str, config: Any) -> dict[str, object]:
    """Where timm shall take its weights from: a cached file, else its own source.

    Args:
        name: the network.
        config: timm's description of its weights, None if it has none.

    Returns:
        the entries of `config` to override.

    Raises:
        InputError: when there are no such weights, or they are not here and cannot be fetched.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(f"timm publishes no weights for {name}; create it without pretrained.")
    if not config.hf_hub_id:
        require_file(f"timm:{name}", config.url)
        return {}
    file = config.hf_hub_filename or "model.safetensors"
    cached = try_to_load_from_cache(config.hf_hub_id, file)
    if isinstance(cached, str):
        return {"file": cached, "custom_load": False}
    problem = f"{config.hf_hub_id}/{file} is not in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"no weights for timm:{name}: {problem}, and HF_HUB_OFFLINE is set.")
    _require_answer(f"timm:{name}", constants.ENDPOINT, problem)
    return {}


def _require_answer(name: str, url: str, problem: str) -> None:
    try:
        urlopen(Request(url, method="HEAD"), timeout=PATIENCE_SECONDS).close()
    except HTTPError:
        return  # it answers; what it thinks of this request does not matter
    except OSError as error:
        raise InputError(
            f"no weights for {name}: {problem}, and {urlparse(url).hostname} does not answer "
            f"({error}). Create the network once on a machine with a network connection and copy "
            "that folder here, or leave pretrained out."
        ) from error

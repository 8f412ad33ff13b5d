"""Load the weights that timm and torchvision publish, or fail at once if they are unavailable.

Without a network connection, both libraries retry for a long time and name no file.
"""

from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from torch import nn

from distillers.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from distillers.errors import InputError
from distillers.models.registry import LARGE_IMAGES

TIMEOUT_SECONDS = 5.0
ADVICE = (
    "Create the network once on a machine with a network connection and copy that folder here, or "
    "leave pretrained out."
)
TENSORFLOW = ("torchvision:googlenet", "torchvision:inception_v3")  # weights converted from it


def load_imagenet_v1(net: nn.Module, torchvision_name: str, num_classes: int) -> nn.Module:
    """Load torchvision's IMAGENET1K_V1 weights, which distillation papers use.

    Raises:
        InputError: if the weights are not cached and cannot be downloaded.
    """
    from torchvision import models

    url = models.get_model_weights(torchvision_name)["IMAGENET1K_V1"].url
    check_available(f"torchvision:{torchvision_name}", url)
    state = torch.hub.load_state_dict_from_url(
        url, map_location="cpu", check_hash=True, weights_only=True
    )
    net.load_state_dict(state)
    return replace_classifier(net, num_classes)


def replace_classifier(net: nn.Module, num_classes: int) -> nn.Module:
    """Replace the classifier of a network by a new one, unless it has `num_classes` logits.

    With 0 classes it is removed. The classifier is the last module that is a linear layer or a
    1 x 1 convolution. A network of timm, which may have several, replaces its own in any case.
    """
    reset: Any = getattr(net, "reset_classifier", None)
    if reset is not None:
        reset(num_classes)
        return net
    if not num_classes:
        return remove_classifier(net)
    path, head = _last_layer(net)
    has_bias = head.bias is not None
    if isinstance(head, nn.Linear) and head.out_features != num_classes:
        net.set_submodule(path, nn.Linear(head.in_features, num_classes, has_bias))
    elif isinstance(head, nn.Conv2d) and head.out_channels != num_classes:
        net.set_submodule(path, nn.Conv2d(head.in_channels, num_classes, 1, bias=has_bias))
    return net


def remove_classifier(net: nn.Module) -> nn.Module:
    """Replace the classifier of a network, in place, by the identity; it has 0 classes then."""
    net.set_submodule(_last_layer(net)[0], nn.Identity())
    cast(Any, net).num_classes = 0
    return net


def _last_layer(net: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    return [
        (path, module)
        for path, module in net.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    ][-1]


def statistics(net: nn.Module, name: str) -> dict[str, list[float]]:
    """Return "mean" and "std" of the normalization that published weights expect, {} if unknown."""
    config = getattr(net, "pretrained_cfg", None)
    if isinstance(config, dict) and config.get("mean") and config.get("std"):
        return {"mean": list(config["mean"]), "std": list(config["std"])}
    if name in TENSORFLOW:
        return {"mean": [0.5] * 3, "std": [0.5] * 3}
    if name.startswith("torchvision:") or name in LARGE_IMAGES:
        return {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    return {}


def check_available(name: str, url: str) -> None:
    """Check that torch's cache has the file of `url`, or that its host answers."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = Path(urlparse(url).path).name
    if not (folder / file).exists():
        check_reachable(url, f"no weights for {name}: {file} is not in {folder}, and ", ADVICE)


def timm_overrides(name: str, config: Any) -> dict[str, object]:
    """Return what to override in timm's configuration so that it loads a cached file.

    Returns:
        The entries to override; empty to let timm download the weights.

    Raises:
        InputError: if there are no such weights, or they are not cached and cannot be downloaded.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(f"timm publishes no weights for {name}; create it without pretrained.")
    if not config.hf_hub_id:
        check_available(f"timm:{name}", config.url)
        return {}
    file = config.hf_hub_filename or "model.safetensors"
    cached = try_to_load_from_cache(config.hf_hub_id, file)
    if isinstance(cached, str):
        return {"file": cached, "custom_load": False}
    where = f"{config.hf_hub_id}/{file} is not in {constants.HF_HUB_CACHE}"
    check_hub(f"no weights for timm:{name}: {where}, and ", ADVICE)
    return {}


def check_hub(problem: str, advice: str) -> None:
    """Check that the Hugging Face Hub can be used; see `check_reachable`."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{problem}HF_HUB_OFFLINE is set.")
    check_reachable(constants.ENDPOINT, problem, advice)


def check_reachable(url: str, problem: str, advice: str) -> None:
    """Check that a server answers, as the clients of the hubs retry for a long time.

    Raises:
        InputError: if it does not; the message is `problem`, what is wrong, and `advice`.
    """
    try:
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT_SECONDS).close()
    except HTTPError:
        return  # it answers; the status does not matter
    except OSError as error:
        host = urlparse(url).hostname
        raise InputError(f"{problem}{host} does not answer ({error}). {advice}") from error

"""Read the `config.json` that timm writes beside the weights in a repository of Hugging Face."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import timm

from distillers.checkpoints.content import INDEX
from distillers.checkpoints.input_adapter import known_interpolation
from distillers.checkpoints.schema import check_card
from distillers.errors import InputError

# Files that it describes.
WHOLE = ("model.safetensors", "pytorch_model.bin")
FILES = (*WHOLE, *(f"{name}{INDEX}" for name in WHOLE))
MAX_BYTES = 10**7

log = logging.getLogger("distillers")


def read_hub_config(path: Path) -> dict[str, Any]:
    """Return the architecture, images and classes of a file of weights, as entries of a card.

    Returns:
        "model" and, if they are there, "mean", "std", "image_size", "shorter_side",
        "interpolation" and "class_names"; empty if the file has no configuration of timm beside it.

    Raises:
        InputError: if the configuration cannot be read or has values out of range.
    """
    file = path.parent / "config.json"
    if path.name not in FILES or not file.is_file() or file.stat().st_size > MAX_BYTES:
        return {}
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON ({error}); download it again.") from error
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str) or not timm.is_model(name):
        if isinstance(config, dict) and isinstance(config.get("model_type"), str):
            log.warning(
                "%s is of transformers' %.40r: as a teacher, name --path_t transformers:%s.",
                file,
                config["model_type"],
                path.parent,
            )
        return {}
    own = config.get("pretrained_cfg")
    card: dict[str, Any] = {"model": f"timm:{name}", "class_names": config.get("label_names")}
    if isinstance(own, dict):
        card |= {"mean": own.get("mean"), "std": own.get("std"), **_sizes(own)}
        if isinstance(own.get("interpolation"), str):
            card["interpolation"] = known_interpolation(own["interpolation"])
    card = check_card(card, file)
    log.warning("%s: %s", file, ", ".join(f"{k} {_short(v)}" for k, v in card.items()))
    return card


def _sizes(own: dict[str, Any]) -> dict[str, int]:
    """Return the side of the images, and of those that they are cropped from."""
    size, crop = own.get("input_size"), own.get("crop_pct")
    if not isinstance(size, list) or not size or not isinstance(size[-1], int):
        return {}
    is_share = isinstance(crop, float | int) and 0 < crop <= 1
    cropped = {"shorter_side": math.floor(size[-1] / crop)} if is_share else {}
    return {"image_size": size[-1], **cropped}


def _short(value: object) -> str:
    return f"({len(value)})" if isinstance(value, list) and len(value) > 3 else str(value)

"""One self-contained file of a deployed network: safetensors, ONNX, or a torch.export program."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from distillers import __version__
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints import onnx as onnx_file
from distillers.checkpoints.load import CARD, Ready, load
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.files import write_atomically
from distillers.models.profile import count_macs, count_parameters

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
TOLERANCE = 1e-4  # of the largest logit


def describe(ready: Ready, source: DataSource | None = None) -> dict[str, Any]:
    """The card of an artefact: all that one needs to feed it, and where it comes from.

    Args:
        ready: the network, with the card of its checkpoint.
        source: the data set; it tells what the card does not.

    Raises:
        InputError: when neither tells the normalisation or the size of the images.
    """
    card = {"format": checkpoint.FORMAT, **ready.card}
    if source is not None:
        card.setdefault("dataset", source.name)
        card.setdefault("mean", list(source.mean))
        card.setdefault("std", list(source.std))
        if card.setdefault("image_size", source.image_size) == source.image_size:
            card.setdefault("shorter_side", source.shorter_side)
        if source.name == card["dataset"]:
            card.setdefault("class_names", list(source.class_names))
    missing = [key for key in ("mean", "std", "image_size") if not card.get(key)]
    if missing:
        raise InputError(
            f"the file does not tell {', '.join(missing)}; name its data set with --dataset."
        )
    card["parameters"] = count_parameters(ready)
    card["macs"] = count_macs(ready, card["image_size"])
    card["distillers"] = __version__
    return {key: value for key, value in card.items() if value is not None}


def export(ready: Ready, card: dict[str, Any], path: Path, form: str, images: Tensor) -> float:
    """Write an artefact, read it back, compare it with the network, and only then keep it.

    Args:
        ready: the network.
        card: as `describe` gives it.
        path: of the file; a torch_export file gets the card in a .json file beside it too.
        form: "safetensors", "onnx" or "torch_export".
        images: (n, 3, h, w), n at least 2, real ones, as the network sees them.

    Returns:
        the largest absolute difference between a logit of the artefact and of the network.

    Raises:
        InputError: when the network cannot be written so, or the artefact does not agree with it;
            nothing is left at `path` then.
    """
    if path.suffix != SUFFIXES[form]:
        raise InputError(f"--out is {path}; a {form} file must end in {SUFFIXES[form]}.")
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        if form == "safetensors":
            write_safetensors(ready.net, card, aside)
        elif form == "onnx":
            onnx_file.write(ready, card, aside, images[:2])
        else:
            _write_program(ready, card, aside, images[:2])
        difference = _compare(ready, aside, card["model"], images)
        if form == "torch_export":
            text = json.dumps(card, indent=2).encode()
            write_atomically(path.with_suffix(".json"), text)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return difference


def write_safetensors(net: nn.Module, card: dict[str, Any], path: Path) -> None:
    """Write the weights, the card as JSON in the metadata."""
    state = {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
    state = {key: value.contiguous() for key, value in state.items()}
    metadata = {"format": "pt", "card": json.dumps(card)}
    write_atomically(path, safetensors.torch.save(state, metadata))


def _write_program(ready: Ready, card: dict[str, Any], path: Path, images: Tensor) -> None:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad():
            program = torch.export.export(ready, (images,), dynamic_shapes=shapes)
    except Exception as error:  # of torch.export, many kinds
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"torch.export cannot read {card['model']}: {reason}") from error
    torch.export.save(program, path, extra_files={CARD: json.dumps(card)})


@torch.no_grad()
def _compare(ready: Ready, path: Path, model: str, images: Tensor) -> float:
    """The largest difference, one image alone and all together.

    Raises:
        InputError: when it is more than rounding.
    """
    again: nn.Module
    if path.suffix == SUFFIXES["onnx"]:
        again = onnx_file.OnnxNetwork(path)
    else:
        again = load(path, model=model if path.suffix == SUFFIXES["safetensors"] else None)
    expected = ready(images)
    got = torch.cat([again(images[:1]), again(images)])
    difference = float((got - torch.cat([expected[:1], expected])).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"the file does not compute what {model} does: logits differ by up to {difference:.3g} "
            f"on {len(images)} images; it was not kept."
        )
    return difference

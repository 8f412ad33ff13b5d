"""`distillers export`: write a deployed network to one self-contained file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from distillers.config.parsing import parse
from distillers.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from distillers.data.source import DataSource

NUM_IMAGES = 32


@dataclass(frozen=True)
class ExportConfig:
    """Export the deployed network of a run, and verify the file against PyTorch on images."""

    path: tyro.conf.Positional[str]
    """Run folder (its best checkpoint is used), checkpoint, or safetensors file."""
    format: Literal["safetensors", "onnx", "torch_export"] = "safetensors"
    """File format; each includes a JSON card with the preprocessing."""
    out: str | None = None
    """Output file. Default: next to the checkpoint, with the suffix of the format."""
    overwrite: bool = False
    """Replace an existing file."""
    model: str | None = None
    """Architecture of the network, if the checkpoint does not name it."""
    path_t: str | None = None
    """Checkpoint of the teacher; needed only for files of SimKD's published code."""
    dataset: str | None = None
    """Data set of the images for the check. Default: that of the network's training."""
    data_dir: str = "./data"
    """Folder of the data sets; downloads go there too."""
    download: bool = False
    """Download the data set if it is missing."""


def main(args: Sequence[str]) -> None:
    """Write the file, and print its largest deviation from the network's outputs."""
    config = parse(ExportConfig, args, "distillers export")

    from distillers.checkpoints import onnx as onnx_file
    from distillers.checkpoints.card import complete_card
    from distillers.checkpoints.export import SUFFIXES, export
    from distillers.checkpoints.load import best_checkpoint, load

    path = best_checkpoint(Path(config.path))
    out = Path(config.out) if config.out else path.with_suffix(SUFFIXES[config.format])
    beside = [out.with_suffix(".json")] if config.format == "torch_export" else []
    there = [path for path in (out, *beside) if path.exists()]
    if there and not config.overwrite:
        raise InputError(f"{there[0]} is there already; add --overwrite to replace it.")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist.")
    if config.format == "onnx":
        onnx_file.require()
    if path.suffix == ".onnx" or (path.suffix == ".pt2" and config.format != "torch_export"):
        raise InputError(f"{path} is a program already; export from the checkpoint instead.")
    classifier = load(path, model=config.model, teacher=config.path_t)
    name = config.dataset or classifier.card.get("dataset")
    source = _source(name, classifier.card, config) if name else None
    card = complete_card(classifier, source)
    images, which = _images(source, card)
    difference = export(classifier, card, out, config.format, images)
    print(f"checked against PyTorch on {len(images)} {which}")
    print(f"max_abs_difference  {difference:.3g}")
    print(f"saved {out}")


def _source(name: str, card: dict[str, Any], config: ExportConfig) -> "DataSource | None":
    """Return the data set; None if it is missing and was not named by --dataset."""
    from distillers import data

    size = card.get("image_size") if card.get("dataset") == name else None
    # only a few images are needed: neither unreadable nor held-out ones matter
    reading = data.DecodeOptions(size, num_workers=0, on_bad_image="skip", val_fraction=0.1)
    try:
        return data.source_of(name, config.data_dir, config.download, reading)
    except InputError as error:
        if config.dataset:
            raise
        print(f"{name} is not here ({error})")
        return None


def _images(source: "DataSource | None", card: dict[str, Any]) -> "tuple[Tensor, str]":
    """Return preprocessed images and a description of them."""
    import torch
    from torch import nn

    from distillers import data
    from distillers.checkpoints.input_adapter import adapt_input

    if source is None:
        source, which = data.source_of("digits"), "images, for want of its own data set, of"
    else:
        which = "test images of"
    images = next(source.test_loader(torch.device("cpu")).epoch(1)).images[:NUM_IMAGES]
    size = (source.image_size, source.image_size)
    seen = adapt_input(nn.Identity(), card, mean=source.mean, std=source.std, size=size)
    return seen(images), f"{which} {source.name}"

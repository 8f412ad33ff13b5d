"""`distillers export`: write a deployed network to one self-contained file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import tyro

from distillers.config.parsing import parse
from distillers.config.scoring import EvalDataConfig
from distillers.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from distillers.data.source import DataSource

NUM_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class ExportConfig(EvalDataConfig):
    """Export the deployed network of a run, and verify the file against PyTorch on test images."""

    # a few images are enough: neither unreadable nor held-out ones matter
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "data_dir": "./data",
        "num_workers": 0,
        "on_bad_image": "skip",
        "val_fraction": 0.1,
    }

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
    download: bool = False
    """Download the data set if it is missing."""


def main(args: Sequence[str]) -> None:
    """Write the file, and print its largest deviation from the network's outputs."""
    config = parse(ExportConfig, args, "distillers export")
    config.check()

    from distillers.checkpoints.card import complete_card
    from distillers.checkpoints.export import SUFFIXES, export
    from distillers.checkpoints.load import best_checkpoint, load

    path = best_checkpoint(Path(config.path))
    out = Path(config.out) if config.out else path.with_suffix(SUFFIXES[config.format])
    _check_files(config, path, out)
    classifier = load(path, model=config.model, teacher=config.path_t)
    source = _find_source(config, classifier.card, path)
    card = complete_card(classifier, source)
    images, origin = _images(source, card)
    difference = export(classifier, card, out, config.format, images)
    print(f"checked against PyTorch on {len(images)} {origin}")
    print(f"max_abs_difference  {difference:.3g}")
    print(f"saved {out}")


def _check_files(config: ExportConfig, path: Path, out: Path) -> None:
    """Check that the network can be exported from `path` to `out`."""
    from distillers.checkpoints import onnx

    written = [out, out.with_suffix(".json")] if config.format == "torch_export" else [out]
    existing = [file for file in written if file.exists()]
    if existing and not config.overwrite:
        raise InputError(f"{existing[0]} exists; add --overwrite to replace it.")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist.")
    if config.format == "onnx":
        onnx.require()
    if path.suffix == ".onnx" or (path.suffix == ".pt2" and config.format != "torch_export"):
        raise InputError(f"{path} is an exported program; export from the checkpoint instead.")


def _find_source(config: ExportConfig, card: dict[str, Any], path: Path) -> "DataSource | None":
    """Return the data set; None if it is missing and --dataset does not name it."""
    from distillers.checkpoints.for_dataset import find_test_source

    try:
        return find_test_source(config, card, path)
    except InputError as error:
        if config.dataset:
            raise
        print(f"the network's own test images are not available: {error}")
        return None


def _images(source: "DataSource | None", card: dict[str, Any]) -> "tuple[Tensor, str]":
    """Return preprocessed images and a description of them."""
    import torch
    from torch import nn

    from distillers import data
    from distillers.checkpoints.input_adapter import adapt_input

    source = source or data.source_of("digits")
    images = next(source.test_loader(torch.device("cpu")).epoch(1)).images[:NUM_IMAGES]
    size = (source.image_size, source.image_size)
    adapted = adapt_input(nn.Identity(), card, mean=source.mean, std=source.std, size=size)
    return adapted(images), f"test images of {source.name}"

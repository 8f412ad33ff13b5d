"""`distillers export`: write a deployed network to one self-contained file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from distillers.config.flags import AT_LEAST_1
from distillers.config.parsing import parse
from distillers.config.scoring import EvalDataConfig
from distillers.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from distillers.checkpoints.load import Classifier
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
    format: Literal["safetensors", "onnx", "torch_export", "openvino"] = "safetensors"
    """File format; each includes a JSON card with the preprocessing. openvino is two files, .xml
    and .bin, and needs the extra of that name."""
    out: str | None = None
    """Output file. Default: next to the checkpoint, with the suffix of the format."""
    int8: Literal["static"] | None = None
    """Quantize an onnx file: int8 weights by channel, uint8 activations with the ranges that they
    have on training images. What is printed is measured on the file by onnxruntime."""
    int8_keep: tuple[str, ...] = ()
    """Layers to leave in float, by module path; "auto" quantizes each alone, and keeps the fewest
    with which the class probabilities of the calibration images change by at most 0.01 nats."""
    int8_images: Annotated[int, AT_LEAST_1] = 256
    """Training images to calibrate with."""
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
    suffix = f".int8{SUFFIXES[config.format]}" if config.int8 else SUFFIXES[config.format]
    out = Path(config.out) if config.out else path.with_suffix(suffix)
    _check_files(config, path, out)
    classifier = load(path, model=config.model, teacher=config.path_t)
    source = _find_source(config, classifier.card, path)
    card = complete_card(classifier, source)
    if config.int8:
        _export_int8(config, classifier, card, source, out)
        return
    images, origin = _images(source, card)
    difference = export(classifier, card, out, config.format, images)
    print(f"checked against PyTorch on {len(images)} {origin}")
    print(f"max_abs_difference  {difference:.3g}")
    print(f"saved {out}")


def _export_int8(
    config: ExportConfig,
    classifier: "Classifier",
    card: dict[str, Any],
    source: "DataSource | None",
    out: Path,
) -> None:
    """Write an int8 file and print what onnxruntime measures on it."""
    from distillers.training.int8_export import export_int8

    if source is None:
        raise InputError("--int8 is calibrated on training images; name them with --data_dir.")
    found = export_int8(
        classifier, card, out, source, keep=config.int8_keep, num_images=config.int8_images
    )
    print(f"measured by onnxruntime on {out} and the float file, on the test images:")
    print(f"test_acc        {found.accuracy!r} (float {found.float_accuracy!r})")
    print(f"agreement       {found.agreement!r}")
    print(f"file_bytes      {found.file_bytes} ({found.size_ratio:.3f} of float)")
    print(f"latency_ms      {found.latency_ms:.3f} ({found.latency_ratio:.2f} of float, one image)")
    if found.load:
        print(f"                {found.load}")
    print(f"layers in float {len(found.kept)} of {found.num_layers}: {' '.join(found.kept)}")
    print(f"saved {out}")


def _check_files(config: ExportConfig, path: Path, out: Path) -> None:
    """Check that the network can be exported from `path` to `out`."""
    from distillers.checkpoints import onnx, openvino

    if config.int8 and config.format != "onnx":
        raise InputError(f"--int8 is for --format onnx, not {config.format}.")
    if config.int8_keep and not config.int8:
        raise InputError("--int8_keep is for --int8 static; add it, or leave the flag out.")
    beside = {"torch_export": ".json", "openvino": openvino.WEIGHTS}
    written = [out, *(out.with_suffix(s) for f, s in beside.items() if f == config.format)]
    existing = [file for file in written if file.exists()]
    if existing and not config.overwrite:
        raise InputError(f"{existing[0]} exists; add --overwrite to replace it.")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist.")
    if config.format in ("onnx", "openvino"):
        onnx.require()
    if config.format == "openvino":
        onnx.require("openvino")
    if path.suffix in (".onnx", openvino.XML) or (
        path.suffix == ".pt2" and config.format != "torch_export"
    ):
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
    return adapt_input(nn.Identity(), card, source)(images), f"test images of {source.name}"

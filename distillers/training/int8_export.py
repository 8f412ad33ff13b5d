"""Export a network as an int8 ONNX file, and measure that file."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers.checkpoints.export import SUFFIXES, export
from distillers.checkpoints.input_adapter import adapt_input
from distillers.checkpoints.int8 import AUTO, Quantizer, write_card
from distillers.checkpoints.load import Classifier
from distillers.data.datasets.folder_set import FolderSet
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.files import write_atomically
from distillers.training.predictions import agreement, run_files


@dataclass(frozen=True)
class Int8Report:
    """What onnxruntime measures on a float file and on the int8 file.

    Attributes:
        accuracy: of the int8 file on the test images in percent.
        float_accuracy: of the float file.
        agreement: how often both predict the same class, in percent.
        file_bytes: size of the int8 file.
        size_ratio: to that of the float ONNX file.
        latency_ms: median milliseconds of a forward of one image.
        latency_ratio: to that of the float file, both interleaved.
        kept: layers that were left in float.
        num_layers: number of layers that could be quantized.
        load: a note on other programs that slowed the latencies, "" if there were none.
    """

    accuracy: float
    float_accuracy: float
    agreement: float
    file_bytes: int
    size_ratio: float
    latency_ms: float
    latency_ratio: float
    kept: tuple[str, ...]
    num_layers: int
    load: str


def export_int8(
    classifier: Classifier,
    card: dict[str, Any],
    path: Path,
    source: DataSource,
    *,
    keep: Sequence[str] = (),
    num_images: int = 256,
) -> Int8Report:
    """Write a network as an int8 ONNX file, and evaluate it and its float file with onnxruntime.

    Args:
        classifier: the network.
        card: from `complete_card`.
        path: the file, which is replaced.
        source: its data set: training images to calibrate with, test images to evaluate on.
        keep: layers to leave in float, by module path; ("auto",) finds them.
        num_images: number of training images to calibrate with.

    Raises:
        InputError: if the network cannot be exported or quantized; nothing is written then.
    """
    if path.suffix != SUFFIXES["onnx"]:
        raise InputError(f"--out is {path}; files of --format onnx end in {SUFFIXES['onnx']}.")
    images = calibration_images(source, card, num_images)
    with tempfile.TemporaryDirectory(prefix="distillers-int8-") as name:
        full, small = Path(name) / "float.onnx", Path(name) / "int8.onnx"
        export(classifier, card, full, "onnx", images[:32])
        quantizer = Quantizer(full, images, Path(name))
        kept = _choose_kept(quantizer, keep)
        quantizer.write(small, kept)
        write_card(small, card)
        seen, latency, load = run_files({"float": full, "int8": small}, source)
        same = agreement(seen["float"], seen["int8"])
        accuracy, float_accuracy = seen["int8"].accuracy(), seen["float"].accuracy()
        facts = {"kept": list(kept), "calibration_images": len(images)}
        facts |= {"agreement": same, "float_accuracy": float_accuracy}
        write_card(small, {**card, "accuracy": accuracy, "int8": facts})
        content, float_bytes = small.read_bytes(), full.stat().st_size
    write_atomically(path, content)
    return Int8Report(
        accuracy=accuracy,
        float_accuracy=float_accuracy,
        agreement=same,
        file_bytes=len(content),
        size_ratio=len(content) / float_bytes,
        latency_ms=latency["int8"],
        latency_ratio=latency["int8"] / latency["float"],
        kept=kept,
        num_layers=len(quantizer.layers),
        load=load,
    )


def _choose_kept(quantizer: Quantizer, keep: Sequence[str]) -> tuple[str, ...]:
    """Return the layers to leave in float; print the most sensitive ones if they are searched."""
    if tuple(keep) != (AUTO,):
        return tuple(keep)
    ranked = quantizer.sensitivities()
    kept = quantizer.choose_kept(ranked)
    print("layers by what quantizing each alone changes (mean KL divergence, nats):")
    for each in ranked[: max(5, len(kept))]:
        what = "float" if each.layer in kept else "int8"
        print(f"  {each.layer:<40}{each.divergence:10.3g}  {what}")
    return tuple(kept)


def calibration_images(source: DataSource, card: dict[str, Any], count: int) -> Tensor:
    """Return training images as the network of a card takes them, about equally many of each class.

    There are `count` of them, or all training images if these are fewer.

    Returns:
        (n, c, h, w) float32.

    Raises:
        InputError: if the data set has no training images.
    """
    if isinstance(source, FolderSet):
        source = replace(source, is_split=False)  # its training images may be sampled nevertheless
    total = len(source.train_labels)
    if not total:
        raise InputError("quantization is calibrated on training images, and there are none.")
    loader = source.train_eval_loader(torch.device("cpu"))
    if count < total:
        held_out = source.split(count / total, seed=0)[1]
        assert held_out is not None  # it is None only for a fraction of 0
        loader = held_out.test_loader(torch.device("cpu"))
    adapted = adapt_input(nn.Identity(), card, source)
    return torch.cat([adapted(batch.images) for batch in loader.epoch(1)])

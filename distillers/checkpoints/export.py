"""Export a network: to safetensors, ONNX, a torch.export program, or OpenVINO IR."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from distillers.checkpoints import onnx as onnx_file
from distillers.checkpoints import openvino
from distillers.checkpoints.checksum import BLANK, KEY, add_to_safetensors, add_to_zip
from distillers.checkpoints.load import Classifier, load
from distillers.checkpoints.program import CARD
from distillers.errors import InputError, first_line
from distillers.files import write_atomically, write_text

SUFFIXES = {
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "torch_export": ".pt2",
    "openvino": openvino.XML,
}
TOLERANCE = 1e-4  # relative to the largest logit


def export(
    classifier: Classifier, card: dict[str, Any], path: Path, form: str, images: Tensor
) -> float:
    """Write a file, load it again, compare its logits with the network's, and only then keep it.

    Args:
        classifier: the network.
        card: from `complete_card`.
        path: the file; for torch_export, the card is also written to a .json file beside it;
            for openvino, the weights to a .bin file.
        form: "safetensors", "onnx", "torch_export" or "openvino".
        images: (n, 3, h, w), n at least 2, real images, preprocessed.

    Returns:
        The largest absolute difference between logits of the file and of the network.

    Raises:
        InputError: if the network cannot be written in this form, or the logits differ; nothing is
            left at `path` then.
    """
    if path.suffix != SUFFIXES[form]:
        raise InputError(f"--out is {path}; files of --format {form} end in {SUFFIXES[form]}.")
    example = images[:2].clone()  # not a view: torch.export saves the whole storage
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}.part") as folder:
        temporary = Path(folder) / path.name
        if form == "safetensors":
            write_safetensors(classifier.net, card, temporary)
        elif form == "onnx":
            onnx_file.write(classifier, card, temporary, example)
        elif form == "openvino":
            _write_openvino(classifier, card, temporary, example)
        else:
            _write_program(classifier, card, temporary, example)
        difference = _compare(classifier, temporary, card["model"], images)
        for file in Path(folder).iterdir():
            if file != temporary:  # weights of openvino, card of torch_export
                file.replace(path.with_name(file.name))
        temporary.replace(path)
    return difference


def write_safetensors(net: nn.Module, card: dict[str, Any], path: Path) -> None:
    """Write the weights, with the card as JSON in the metadata."""
    state = {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
    state = {key: value.contiguous() for key, value in state.items()}
    metadata = {"format": "pt", "card": json.dumps(card), KEY: BLANK.decode()}
    write_atomically(path, add_to_safetensors(safetensors.torch.save(state, metadata)))


def _write_program(
    classifier: Classifier, card: dict[str, Any], path: Path, images: Tensor
) -> None:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad():
            program = torch.export.export(classifier, (images,), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many kinds
        reason = first_line(error)
        raise InputError(f"torch.export cannot read {card['model']}: {reason}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has the paths of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={CARD: json.dumps(card)})
    write_atomically(path, add_to_zip(buffer.getbuffer()))
    write_text(path.with_suffix(".json"), json.dumps(card, indent=2))


def _write_openvino(
    classifier: Classifier, card: dict[str, Any], path: Path, images: Tensor
) -> None:
    with tempfile.TemporaryDirectory(prefix="distillers-openvino-") as name:
        source = Path(name) / "network.onnx"
        onnx_file.write(classifier, card, source, images)
        openvino.convert(source, card, path)


@torch.no_grad()
def _compare(classifier: Classifier, path: Path, model: str, images: Tensor) -> float:
    """Return the largest difference of logits, for one image alone and for all together.

    Raises:
        InputError: if it is more than rounding.
    """
    loaded = load(path, model=model)
    expected = classifier(images)
    actual = torch.cat([loaded(images[:1]), loaded(images)])
    difference = float((actual - torch.cat([expected[:1], expected])).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise InputError(
            f"the file does not compute what {model} does: logits differ by up to {difference:.3g} "
            f"on {len(images)} images; it was not kept."
        )
    return difference

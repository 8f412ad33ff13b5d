"""Write OpenVINO IR from ONNX files and run it; needs the extra `openvino`.

A network is two files: NAME.xml, the graph with the card, and NAME.bin, the weights. The last line
of the XML file is a comment with the SHA-256 of the lines before it and of the weights.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from distillers.checkpoints.onnx import RuntimeNetwork, require
from distillers.errors import CorruptFileError, InputError, first_line
from distillers.files import write_atomically

XML, WEIGHTS = ".xml", ".bin"
CARD = ["distillers", "card"]  # path in the graph's runtime information
SUM = re.compile(rb"<!--distillers\.sha256:([0-9a-f]{64})-->\n\Z")
# OpenVINO would compute in bfloat16 where the CPU can, and differ from other runtimes.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def convert(source: Path, card: dict[str, Any], path: Path) -> None:
    """Convert an ONNX file to float32 OpenVINO IR.

    Args:
        source: the ONNX file.
        card: stored as JSON in the XML file.
        path: the XML file; the weights are written beside it.

    Raises:
        InputError: if OpenVINO lacks an operation of the network.
    """
    require("openvino")
    import openvino

    try:
        model = openvino.convert_model(str(source))
    except Exception as error:  # OpenVINO raises several kinds
        raise InputError(
            f"this network cannot be converted to OpenVINO: {first_line(error)}"
        ) from error
    model.set_rt_info(json.dumps(card), CARD)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    content = path.read_bytes().rstrip(b"\n") + b"\n"
    digest = _digest(content, path).encode()
    write_atomically(path, content + b"<!--distillers.sha256:" + digest + b"-->\n")


def check_checksum(path: Path) -> bool:
    """Return whether an XML file has a checksum, after checking it.

    Raises:
        InputError: if the file of the weights is missing.
        CorruptFileError: if the checksum does not fit the content of both files.
    """
    weights = path.with_suffix(WEIGHTS)
    if not weights.is_file():
        raise InputError(f"{weights} is missing: it has the weights of {path}; copy both files.")
    content = path.read_bytes()
    found = SUM.search(content)
    if found is None:
        return False
    if _digest(content[: found.start()], path) != found[1].decode():
        raise CorruptFileError(
            f"{path} or {weights.name} is damaged: their checksum does not fit their content."
        )
    return True


class OpenVinoNetwork(RuntimeNetwork):
    """OpenVINO IR, run by OpenVINO in float32.

    Args:
        path: an XML file that maps normalized images (n, 3, h, w) to logits.

    Attributes:
        card: from the file; {"model": its name} if there is none.

    Raises:
        InputError: if OpenVINO is missing, or the network does not have one input and one output.
        CorruptFileError: if it cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        require("openvino")
        import openvino

        self.path = path
        try:
            model = openvino.Core().read_model(str(path))
            has_card = model.has_rt_info(CARD)
            text = model.get_rt_info(CARD).astype(str) if has_card else "{}"
            self.card: dict[str, Any] = json.loads(text) or {"model": path.stem}
            threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
            self.compiled = openvino.compile_model(model, "CPU", {**PRECISION, **threads})
        except Exception as error:  # OpenVINO raises several kinds
            raise CorruptFileError(
                f"{path} is damaged or not OpenVINO IR: {first_line(error)}"
            ) from error
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise InputError(
                f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; it must "
                "map images to logits."
            )

    @override
    def run(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.compiled(images.float().numpy())[0].copy())


def _digest(content: bytes, path: Path) -> str:
    """Return the SHA-256 of the lines of an XML file and of its weights."""
    return hashlib.sha256(content + path.with_suffix(WEIGHTS).read_bytes()).hexdigest()

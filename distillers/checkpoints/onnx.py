"""Write ONNX files from PyTorch and run them with onnxruntime; needs the extra `export`."""

import io
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers.checkpoints.checksum import add_to_onnx
from distillers.errors import InputError

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def require() -> None:
    """Check that the extra is installed.

    Raises:
        InputError: if it is not; says how to install it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} missing: pip install distillers[export]")


def write(net: nn.Module, card: dict[str, Any], path: Path, images: Tensor) -> None:
    """Write a network for any batch size, with the card in the metadata.

    Args:
        net: a network in evaluation mode whose `forward` calls its argument `images`.
        card: stored as JSON under "card".
        path: the file.
        images: (n, 3, h, w), n at least 2, to trace the network with.

    Raises:
        InputError: if ONNX lacks an operation of the network.
    """
    require()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's, about itself
        try:
            program = torch.onnx.export(
                net,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(f"this network cannot be written as ONNX: {reason}") from error
    assert program is not None  # it is None only without dynamo
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.functions):
        del part.metadata_props[:]  # they have stack traces with the paths of this machine
    entry = model.metadata_props.add()
    entry.key, entry.value = "card", json.dumps(card)
    path.write_bytes(add_to_onnx(model.SerializeToString()))


class OnnxNetwork(nn.Module):
    """An ONNX file as a module without parameters, run by onnxruntime on the CPU.

    Args:
        path: a file with one input and one output.

    Attributes:
        card: from the metadata; empty if there is none.

    Raises:
        InputError: if onnxruntime is missing or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        require()
        import onnxruntime

        if not path.is_file():
            raise InputError(f"there is no file {path}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes are private
            raise InputError(f"{path} is damaged or not an ONNX file: {error}") from error
        self.card: dict[str, Any] = json.loads(
            self.session.get_modelmeta().custom_metadata_map.get("card", "{}")
        )
        self._input = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, 3, h, w), on their device."""
        (logits,) = self.session.run(None, {self._input: images.float().cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)

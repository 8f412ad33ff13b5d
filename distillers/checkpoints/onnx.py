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
from typing_extensions import override

from distillers.checkpoints.checksum import add_to_onnx
from distillers.errors import CorruptFileError, InputError, first_line, install_command
from distillers.files import write_atomically

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
NEEDED = {"export": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def require(extra: str = "export") -> None:
    """Check that an extra is installed.

    Raises:
        InputError: if it is not; the message has the command that installs it.
    """
    missing = [name for name in NEEDED[extra] if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} missing: {install_command(extra)}")


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
            reason = first_line(
                error.__cause__ if isinstance(error.__cause__, Exception) else error
            )
            raise InputError(f"this network cannot be written as ONNX: {reason}") from error
    assert program is not None  # it is None only without dynamo
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.functions):
        del part.metadata_props[:]  # they have stack traces with the paths of this machine
    write_model(model, card, path)


def write_model(model: Any, card: dict[str, Any], path: Path) -> None:
    """Write an `onnx.ModelProto` with a card in its metadata and a checksum, atomically."""
    entry = model.metadata_props.add()
    entry.key, entry.value = "card", json.dumps(card)
    write_atomically(path, add_to_onnx(model.SerializeToString()))


def open_session(path: Path) -> Any:
    """Open an ONNX file in onnxruntime on the CPU, with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, too
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class RuntimeNetwork(nn.Module):
    """A file as a module without parameters, which another library runs on the CPU.

    Attributes:
        path: the file.
        card: facts about the network.
    """

    path: Path
    card: dict[str, Any]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, 3, h, w), on their device."""
        try:
            return self.run(images.cpu()).to(images.device).float()
        except Exception as error:  # these libraries raise several kinds, some private
            shape = tuple(images.shape)
            raise InputError(
                f"{self.path} cannot run on images {shape}: {first_line(error)}"
            ) from error

    def run(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, 3, h, w), both on the CPU."""
        raise NotImplementedError


class OnnxNetwork(RuntimeNetwork):
    """An ONNX file, run by onnxruntime.

    A file for a fixed number of images runs in batches of that number.

    Args:
        path: a file that maps normalized images (n, 3, h, w) to logits.

    Attributes:
        card: from the metadata, or else what the graph shows.

    Raises:
        InputError: if onnxruntime is missing or cannot read the file, or it takes other input.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        require()
        self.path = path
        try:
            self.session = open_session(path)
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.card: dict[str, Any] = json.loads(metadata.get("card", "{}"))
        except Exception as error:  # onnxruntime's own classes are private
            raise CorruptFileError(
                f"{path} is damaged, not an ONNX file, or one that onnxruntime cannot run: "
                f"{first_line(error)}"
            ) from error
        self._input, self.dtype, self.batch_size, size = self._find_input()
        outputs = self.session.get_outputs()
        if len(outputs) != 1 or len(outputs[0].shape) not in (0, 2):  # 0 if unknown
            found = ", ".join(f"{each.name} {each.shape}" for each in outputs)
            raise InputError(
                f"{path} has the outputs {found}; export it with one output, logits (n, classes)."
            )
        if self.card == {}:
            classes = outputs[0].shape[1] if outputs[0].shape else None
            sizes = {"num_classes": classes, "image_size": size}
            known = {key: number for key, number in sizes.items() if isinstance(number, int)}
            self.card = {"model": path.stem, **known}

    @override
    def run(self, images: Tensor) -> Tensor:
        count = self.batch_size or len(images)
        padding = images[-1:].expand(-len(images) % count, -1, -1, -1)
        parts = torch.cat([images, padding]).to(self.dtype).split(count)
        logits = [self.session.run(None, {self._input: part.numpy()})[0] for part in parts]
        return torch.cat([torch.from_numpy(part) for part in logits])[: len(images)]

    def _find_input(self) -> tuple[str, torch.dtype, int | None, int | None]:
        """Return the input's name, type, and fixed numbers of images and of pixels on a side."""
        inputs = self.session.get_inputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        height, width = shape[2:] if len(shape) == 4 else (None, None)
        is_square = height == width or isinstance(height, str) or isinstance(width, str)
        fits = len(shape) == 4 and (shape[1] in (1, 3) or not isinstance(shape[1], int))
        if not fits or not is_square or inputs[0].type not in TYPES:
            takes = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise InputError(
                f"{self.path} takes {takes}; it must take square images (n, 3, h, w) of floats."
            )
        batch, side = (n if isinstance(n, int) and n > 0 else None for n in (shape[0], height))
        return inputs[0].name, TYPES[inputs[0].type], batch, side

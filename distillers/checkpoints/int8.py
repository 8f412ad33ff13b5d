"""Quantize ONNX files to int8 with onnxruntime, and find the layers that this harms.

Weights are int8 with a scale for each output channel, activations uint8 with the range that they
have on calibration images, as pairs of QuantizeLinear and DequantizeLinear (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, https://arxiv.org/abs/1712.05877).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillers.checkpoints.onnx import open_session, require, write_model
from distillers.errors import InputError, first_line, unknown

LAYERS = ("Conv", "Gemm", "MatMul")
AUTO = "auto"
BATCH = 32  # calibration images per forward
MAX_DIVERGENCE = 0.01  # nats; `AUTO` keeps layers in float until the file differs by less
MAX_KEPT = 0.5  # of the layers; a network that needs more is not quantized


@dataclass(frozen=True)
class Sensitivity:
    """What quantization of one layer alone changes.

    Attributes:
        layer: its module path in the network.
        divergence: mean KL divergence of the class probabilities from those of the float file on
            the calibration images, in nats.
    """

    layer: str
    divergence: float


class Quantizer:
    """Calibrates an ONNX file once, and writes it with any choice of layers in int8.

    Args:
        path: a float file that maps normalized images (n, 3, h, w) to logits.
        images: (n, 3, h, w) calibration images, preprocessed as in training's evaluation.
        folder: an existing folder for temporary files.

    Attributes:
        layers: name of the node of each layer that can be quantized, by module path.

    Raises:
        InputError: if onnxruntime cannot quantize the file; names the operation.
    """

    def __init__(self, path: Path, images: Tensor, folder: Path) -> None:
        require()
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._images, self._folder = images, folder
        self._prepared = folder / "prepared.onnx"
        with _quantizing(path):  # folds batch normalizations that the exporter has left
            quant_pre_process(str(path), str(self._prepared), skip_symbolic_shape=True)
        self._model = onnx.load(self._prepared)
        self.layers = _find_layers(self._model)
        if not self.layers:
            raise InputError(f"{path} has no layer that can be quantized: no {', '.join(LAYERS)}.")
        with _quantizing(path):
            self._ranges = self._calibrate()
        self.logits = run(self._prepared, images)

    def write(self, path: Path, keep: Sequence[str] = ()) -> None:
        """Write the file with all layers in int8 but those of `keep`.

        Raises:
            InputError: if a layer of `keep` does not exist.
        """
        wrong = next((layer for layer in keep if layer not in self.layers), None)
        if wrong is not None:
            raise unknown("layer", wrong, self.layers)
        self._write(path, exclude=[self.layers[layer] for layer in keep])

    def sensitivities(self) -> list[Sensitivity]:
        """Quantize each layer alone, and return what changes, the most harmful first."""
        path = self._folder / "alone.onnx"
        found = []
        for layer, node in self.layers.items():
            self._write(path, only=[node])
            found.append(Sensitivity(layer, divergence(self.logits, run(path, self._images))))
        return sorted(found, key=lambda each: -each.divergence)

    def choose_kept(self, ranked: Sequence[Sensitivity]) -> list[str]:
        """Return the fewest of the most harmful layers to keep in float for `MAX_DIVERGENCE`.

        Raises:
            InputError: if more than half of the layers would have to be kept.
        """
        path, most = self._folder / "trial.onnx", int(MAX_KEPT * len(ranked))
        changed = 0.0
        for count in range(most + 1):
            kept = [each.layer for each in ranked[:count]]
            self.write(path, kept)
            changed = divergence(self.logits, run(path, self._images))
            if changed <= MAX_DIVERGENCE:
                return kept
        raise InputError(
            f"this network cannot be quantized: even with its {most} most sensitive layers in "
            f"float (first {ranked[0].layer}) the class probabilities change by {changed:.3g} nats "
            f"(KL divergence on the calibration images; at most {MAX_DIVERGENCE} is accepted). "
            "Train it with --qat, or name the layers to keep yourself."
        )

    def _calibrate(self) -> Any:
        """Return the range of each activation."""
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        calibrator = create_calibrator(
            self._prepared,
            augmented_model_path=str(self._folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        name = self._model.graph.input[0].name
        feeds = ({name: part.numpy()} for part in self._images.split(BATCH))
        calibrator.collect_data(SimpleNamespace(get_next=lambda: next(feeds, None)))
        return calibrator.compute_data()

    def _write(self, path: Path, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> None:
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        operations = sorted({*QDQRegistry, *QLinearOpsRegistry})
        # int8 operations around a layer in float would round its input and output nevertheless
        is_whole = not only and not exclude
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        with _quantizing(path):
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=list(only),
                nodes_to_exclude=list(exclude),
                op_types_to_quantize=operations if is_whole else list(LAYERS),
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(path), False)


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Store a card and a checksum in an ONNX file, atomically."""
    import onnx

    model = onnx.load(path)
    _compact(model)
    del model.metadata_props[:]
    del model.graph.value_info[:]  # onnxruntime infers the shapes again
    write_model(model, card, path)


def _compact(model: Any) -> None:
    """Remove zero points of weights that are 0, the default, and shorten names between layers."""
    from onnx.numpy_helper import to_array

    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return  # branches and loops read names from outside
    weights = {each.name: each for each in model.graph.initializer}
    outputs = {each.name for each in model.graph.output}
    names: dict[str, str] = {}
    removed = set()
    for node in model.graph.node:
        node.name = ""
        is_weight = node.op_type == "DequantizeLinear" and set(node.input) <= set(weights)
        if is_weight and len(node.input) == 3 and not to_array(weights[node.input[2]]).any():
            removed.add(node.input.pop())
        outs = filter(None, node.output)  # the name of one that is left out is empty
        names |= {name: f"_{len(names) + n}" for n, name in enumerate(outs)}
    for node in model.graph.node:
        for each in (node.input, node.output):
            each[:] = [name if name in outputs else names.get(name, name) for name in each]
    used = {name for node in model.graph.node for name in node.input}
    for name in removed - used:
        model.graph.initializer.remove(weights[name])


def run(path: Path, images: Tensor) -> np.ndarray:
    """Return the logits (n, k) of an ONNX file for images (n, 3, h, w)."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: part.numpy()})[0] for part in images.split(BATCH)]
    return np.concatenate(parts)


def divergence(reference: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean KL divergence of class probabilities from those of a reference, in nats."""
    expected, found = (torch.from_numpy(x).double().log_softmax(1) for x in (reference, logits))
    return float((expected.exp() * (expected - found)).sum(1).mean())


def _find_layers(model: Any) -> dict[str, str]:
    """Return the node of each layer with weights, by the module path in its weight's name."""
    weights = {each.name for each in model.graph.initializer}
    return {
        node.input[1].removeprefix("net.").removesuffix(".weight"): node.name
        for node in model.graph.node
        if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in weights
    }


@contextmanager
def _quantizing(path: Path) -> Iterator[None]:
    """Turn the errors of onnxruntime's tools into one line, and their log off."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except Exception as error:  # they raise many kinds
        raise InputError(f"{path.name} cannot be quantized: {first_line(error)}") from error
    finally:
        logging.disable(level)

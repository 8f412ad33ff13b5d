"""Load a network, ready to use, from any supported file or a run's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers.checkpoints import hub_config, openvino
from distillers.checkpoints.checksum import check_checksum
from distillers.checkpoints.content import PROGRAM, check_content
from distillers.checkpoints.io import MAX_BESIDE, PROGRAMS, check_exists, log_unverified, read
from distillers.checkpoints.network import build_network
from distillers.checkpoints.onnx import OnnxNetwork
from distillers.checkpoints.program import read_program
from distillers.checkpoints.schema import check_card
from distillers.checkpoints.shards import weight_files
from distillers.checkpoints.third_party import build_third_party
from distillers.data.loaders.decode import resize_center_crop
from distillers.data.normalization import Normalize
from distillers.errors import InputError
from distillers.features.taps import declare_inner_taps

# Of programs by suffix: what the file is, the check of its checksum, and what opens it.
OPENERS: dict[str, tuple[str, Callable[[Path], bool], Callable[[Path], Any]]] = {
    ".onnx": ("an ONNX file", check_checksum, OnnxNetwork),
    ".pt2": (PROGRAM, check_checksum, read_program),
    openvino.XML: ("an XML document", openvino.check_checksum, openvino.OpenVinoNetwork),
}


class Classifier(nn.Module):
    """A network with its card; maps normalized images (n, 3, h, w) to logits (n, k).

    Args:
        net: the network.
        card: facts about it: "model", "num_classes", and usually "image_size", "shorter_side",
            "mean", "std", "dataset", "class_names", "accuracy".
    """

    def __init__(self, net: nn.Module, card: dict[str, Any]) -> None:
        super().__init__()
        self.net = net
        self.card = card
        declare_inner_taps(self, net)  # so that it can be a teacher
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, 3, h, w) from `preprocess`."""
        return self.net(images)

    def check_preparation(self) -> None:
        """Check that the card says how images are prepared.

        Raises:
            InputError: if it lacks mean, std or image_size.
        """
        missing = [key for key in ("mean", "std", "image_size") if not self.card.get(key)]
        if missing:
            raise InputError(
                f"the card of {self.card.get('model')} has no {', '.join(missing)} to prepare "
                "images by; `distillers export CHECKPOINT --dataset NAME` (with --data_dir, "
                "--image_size and --model as for evaluate) writes a file that has them."
            )

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Preprocess pixels as in evaluation: (n, 3, size, size) on their device.

        Resizes the shorter side to the card's `shorter_side`, crops the central square of
        `image_size`, and normalizes with the card's mean and standard deviation.

        Args:
            pixels: (n, c, h, w) or (c, h, w) uint8, with 1 (gray) or 3 (RGB) channels, as from
                `torchvision.io.decode_image`.

        Raises:
            InputError: for anything else, or if the card lacks mean, std or image_size.
        """
        self.check_preparation()
        if not isinstance(pixels, Tensor):
            raise InputError(
                f"pixels are a {type(pixels).__name__}, not a tensor as that of "
                "torchvision.io.decode_image or torchvision.transforms.functional.pil_to_tensor."
            )
        pixels = pixels if pixels.ndim == 4 else pixels[None]
        is_image = pixels.ndim == 4 and pixels.shape[1] in (1, 3) and pixels.numel() > 0
        if not is_image or pixels.dtype != torch.uint8:
            raise InputError(
                f"pixels are {tuple(pixels.shape)} {pixels.dtype}; they must be (n, 1 or 3, h, w) "
                "or (1 or 3, h, w) torch.uint8."
            )
        mean, std = self.card["mean"], self.card["std"]
        if pixels.shape[1] == 1 and len(mean) == 3:
            pixels = pixels.expand(-1, 3, -1, -1)
        if pixels.shape[1] == 3 and len(mean) == 1:
            mean, std = mean * 3, std * 3
        size = self.card["image_size"]
        pixels = resize_center_crop(pixels, size, self.card.get("shorter_side", size))
        return Normalize(mean, std, pixels.device)(pixels)


def load(
    path: str | Path,
    *,
    model: str | None = None,
    teacher: str | Path | nn.Module | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    programs: bool = True,
) -> Classifier:
    """Load a network, in evaluation mode on the CPU.

    Args:
        path: a checkpoint (of another project too), a run's folder, or a `.safetensors`, `.onnx`,
            `.pt2` or OpenVINO `.xml` file. A `.pt2` file is a program: open only those that you
            trust.
        model: the architecture, if the file does not name it; else it must agree.
        teacher: the teacher or its file, for files of the SimKD authors' code, which lack the
            classifier.
        num_classes: number of classes of the data, which the network must have.
        image_size: side of the images in pixels, for files without a card.
        programs: whether `.onnx`, `.pt2` and `.xml` files are accepted, which cannot be trained.

    Raises:
        InputError: if it cannot be loaded; the message has what to do.
        CorruptFileError: if the file is damaged.
    """
    path = best_checkpoint(Path(path))
    if programs and path.suffix in PROGRAMS:
        return _load_program(path)
    payload = read(path)
    if payload.get("card"):
        net, card = build_network(payload, path, model)
    else:
        teacher = load(teacher).net if isinstance(teacher, str | Path) else teacher
        net, card = build_third_party(
            payload, path, model=model, image_size=image_size, teacher=teacher
        )
    if num_classes not in (None, card["num_classes"]):
        raise InputError(
            f"{path} has {card['num_classes']} classes, the data set has {num_classes}."
        )
    return Classifier(net, card)


def best_checkpoint(path: Path) -> Path:
    """Return `path`, or the best checkpoint in it if it is the folder of a run or of the hub.

    Raises:
        InputError: if the folder does not hold exactly one.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*_best.pth"))
    found = found or [path / name for name in hub_config.FILES if (path / name).exists()][:1]
    if len(found) != 1:
        files = sorted(each.name for each in path.iterdir() if each.is_file())
        beside = f" (it has {', '.join(files[:MAX_BESIDE])})" if files else ""
        raise InputError(
            f"{path} holds {len(found)} files called *_best.pth; name the one to use{beside}."
        )
    return found[0]


def file_bytes(path: Path) -> int:
    """Return the size of a saved network in bytes, with the weights beside an XML file or index."""
    is_xml = path.suffix == openvino.XML
    files = [path, path.with_suffix(openvino.WEIGHTS)] if is_xml else weight_files(path)
    return sum(file.stat().st_size for file in files)


def _load_program(path: Path) -> Classifier:
    check_exists(path)
    what, has_checksum, open_program = OPENERS[path.suffix]
    check_content(path, what)
    if not has_checksum(path):
        log_unverified(path)
    net = open_program(path)
    return Classifier(net, check_card(net.card, path))

"""`distillers.load`: a network ready to use, from any file or folder that this library writes."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillers.checkpoints import io as checkpoint
from distillers.data.loaders.decode import resize_center_crop
from distillers.data.normalization import Normalize
from distillers.errors import InputError
from distillers.features.taps import Taps

CARD = "card.json"  # in a .pt2 archive


class Ready(nn.Module):
    """A deployed network with its card; it maps normalised images (n, 3, h, w) to logits (n, k).

    Args:
        net: the network.
        card: what is known of it: "model", "num_classes", and mostly "image_size",
            "shorter_side", "mean", "std", "dataset", "class_names", "accuracy".
    """

    def __init__(self, net: nn.Module, card: dict[str, Any]) -> None:
        super().__init__()
        self.net = net
        self.card = card
        declared = getattr(net, "taps", None)
        if isinstance(declared, Taps):  # so it can be a teacher as it is
            object.__setattr__(self, "taps", declared.under("net"))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images (n, 3, h, w) as `preprocess` gives them."""
        return self.net(images)

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Images as the network was trained to see them, (n, 3, size, size), on their device.

        The shorter side is resized to the card's `shorter_side`, the middle square of `image_size`
        is cut out, and the card's mean and deviation are applied, as the network was scored.

        Args:
            pixels: (n, c, h, w) or (c, h, w) uint8, c is 1 (grey) or 3 (red, green, blue), as
                `torchvision.io.decode_image` gives them.

        Raises:
            InputError: for anything else, or a card without mean, std and image_size.
        """
        missing = [key for key in ("mean", "std", "image_size") if not self.card.get(key)]
        if missing:
            raise InputError(f"the card of {self.card.get('model')} has no {', '.join(missing)}.")
        pixels = pixels if pixels.ndim == 4 else pixels[None]
        if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.dtype != torch.uint8:
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


class Program(nn.Module):
    """A program of torch.export as a module; it is fixed in evaluation mode.

    Args:
        program: as `torch.export.load` gives it.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.graph = program.module()

    def train(self, mode: bool = True) -> "Program":
        """Nothing but the flag: the graph refuses to be told."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images (n, 3, h, w)."""
        return self.graph(images)


def load(path: str | Path, *, model: str | None = None, teacher: str | Path | None = None) -> Ready:
    """A network in evaluation mode on the CPU, with `card` and `preprocess`.

    Args:
        path: a checkpoint (of another project too), a run's folder, a `.safetensors` file or a
            `.pt2` file. The last is a program: open only one that you trust.
        model: the architecture, where the file does not tell.
        teacher: the checkpoint of the teacher, for a SimKD file of its authors' code.

    Raises:
        InputError: when it cannot be had, with what to do.
    """
    path = best_of(Path(path))
    if path.suffix == ".onnx":
        raise InputError(
            f"{path} is an ONNX file, which onnxruntime runs, not PyTorch: "
            f"onnxruntime.InferenceSession({str(path)!r}).run(None, {{'images': ...}}); its card "
            "is in the session's get_modelmeta().custom_metadata_map['card']."
        )
    if path.suffix == ".pt2":
        return _load_program(path)
    other = None if teacher is None else load(teacher).net
    return Ready(*checkpoint.load_network(path, name=model, teacher=other))


def best_of(path: Path) -> Path:
    """`path`, or the best checkpoint in it where it is a run's folder."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*_best.pth"))
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} files called *_best.pth; name the one to use.")
    return found[0]


def _load_program(path: Path) -> Ready:
    if not path.is_file():
        raise InputError(f"there is no file {path}.")
    extra = {CARD: ""}
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # of a damaged file it logs a traceback; it is told below
    try:
        program = torch.export.load(path, extra_files=extra)
        card = json.loads(extra[CARD])
    except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or not written by `distillers export`.") from error
    finally:
        log.setLevel(level)
    return Ready(Program(program), card)

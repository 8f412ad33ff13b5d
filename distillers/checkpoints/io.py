"""Files of weights: written whole or not at all, read without running what is in them."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from distillers import models
from distillers.checkpoints import simkd as simkd_file
from distillers.checkpoints import third_party as foreign
from distillers.checkpoints.checksum import is_broken, seal
from distillers.errors import MODEL_FLAGS, CorruptFileError, InputError
from distillers.files import write_atomically
from distillers.losses import wiring
from distillers.models.pretrained import statistics

FORMAT = 1
PROGRAMS = (".pt2", ".onnx")
IMAGENET_CLASSES = 1000  # what torchvision publishes tells so many apart


def save(path: Path, payload: dict[str, Any], previous: Path | None = None) -> None:
    """Write `payload` beside `path`, then rename it: a failure leaves the old file whole.

    Args:
        path: the file; it tells by a checksum whether it is whole.
        payload: tensors and plain types only.
        previous: where the old file goes; it is dropped where this is left out.

    Raises:
        OSError: when it cannot be written; what was at `path` is still there.
    """
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomically(path, seal(buffer.getbuffer()), previous)


def check_there(path: Path) -> None:
    """Refuse the path of a file that there is not.

    Raises:
        InputError: with the nearest that there is.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}{_nearest(path)}")


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or a safetensors file; nothing in it is ever run.

    Raises:
        InputError: when there is none, or it holds objects that would run code.
        CorruptFileError: when it is not whole.
    """
    path = Path(path)
    check_there(path)
    if path.suffix in PROGRAMS:
        raise InputError(
            f"{path} is a program, not weights; name a checkpoint or a safetensors file instead."
        )
    if is_broken(path):
        raise CorruptFileError(f"{path} is damaged: its checksum is not that of what it holds.")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        with warnings.catch_warnings():
            # Newer pickle protocols are read as far as the safe reader knows them, else refused.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _looks_damaged(path):
            raise CorruptFileError(f"{path} is damaged or not a checkpoint.") from error
        raise InputError(
            f"{path} holds more than weights and was not opened: that could run code from it. "
            "If you trust it, convert it once where it was made: torch.save({'model': "
            "torch.load(FILE, weights_only=False)['model']}, NEW_FILE)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CorruptFileError(f"{path} is damaged or not a checkpoint: {reason}") from error
    if not isinstance(payload, dict):
        raise InputError(f"{path} holds a {type(payload).__name__}, not a state dict.")
    return payload


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            payload: dict[str, Any] = {"model": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
            metadata = file.metadata() or {}
        if "card" in metadata:
            payload["card"] = json.loads(metadata["card"])
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFileError(f"{path} is damaged or not a safetensors file: {error}") from error
    return payload


def load_network(
    path: str | Path,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    image_size: int = 32,
    teacher: nn.Module | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a checkpoint, ready to use, and its card.

    Args:
        path: a file of ours (with a card that names the architecture) or of another project.
        name: the architecture, where the file does not tell; else it must agree.
        num_classes: what the data has; refused where the file has another number.
        image_size: side of the images in pixels, for files without a card.
        teacher: of a student that SimKD's authors' code saved, to build what was scored.

    Returns:
        the network on the CPU in evaluation mode, and the card; that of another project's file
        tells the architecture and the number of classes.

    Raises:
        InputError: when the architecture is unknown or does not fit the weights.
    """
    payload = load(path)
    card = payload.get("card") or {}
    if not isinstance(card, dict):
        raise InputError(f"the card in {path} is a {type(card).__name__}, not a mapping.")
    if card:
        net, card = _ours(payload, card, path, name)
    else:
        net, card = _foreign(payload, path, name, num_classes, image_size, teacher)
    if num_classes not in (None, card["num_classes"]):
        raise InputError(
            f"{path} tells {card['num_classes']} classes apart, the data set has {num_classes}."
        )
    return net.eval(), card


def name_of(path: str | Path, card: dict[str, Any], name: str | None = None) -> str:
    """The architecture by a card, else as given, else as the folder tells.

    Raises:
        InputError: when none of them does.
    """
    known = card.get("model") or name or foreign.name_from_folder(path)
    if known is None:
        raise InputError(f"{path} does not tell its architecture; name it with {MODEL_FLAGS}.")
    return known


def _ours(
    payload: dict[str, Any], card: dict[str, Any], path: str | Path, name: str | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a file with a card, which is all that is asked how to build it."""
    if card.get("format", FORMAT) > FORMAT:
        raise InputError(f"{path} was written by a newer version of distillers; update to read it.")
    known = name_of(path, card, name)
    if _is_users(known) and name != known:
        raise InputError(
            f"{path} says that it is {known!r}, code outside of distillers. If you trust it, name "
            f"it yourself with {MODEL_FLAGS}."
        )
    if name is not None and name != known:
        raise InputError(f"{path} is a {known}, not a {name}.")
    state = payload.get("model")
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} has no state dict: `model` does not hold one.")
    classes = card.get("num_classes") or foreign.classes_of(state)
    if classes is None:
        raise InputError(f"{path} does not tell how many classes there are.")
    net = models.create(known, num_classes=classes, image_size=card.get("image_size", 32))
    deploy = card.get("deploy")
    if deploy:
        if ":" in deploy["name"]:
            raise InputError(
                f"{path} needs {deploy['name']!r}, code outside of distillers, to be built again; "
                "import that loss and call its `rebuild` yourself."
            )
        net = cast(Any, wiring.find(deploy["name"])).rebuild(net, deploy)
    foreign.fill(net, state, path)
    accuracy = payload.get("best_acc", payload.get("accuracy"))
    scored = {"accuracy": accuracy} if isinstance(accuracy, float) else {}
    return net, {**card, "num_classes": classes, **scored}


def _foreign(
    payload: dict[str, Any],
    path: str | Path,
    name: str | None,
    num_classes: int | None,
    image_size: int,
    teacher: nn.Module | None,
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of another project's file, and a card made up for it."""
    found = foreign.load(payload, path, name=name, num_classes=num_classes, image_size=image_size)
    card: dict[str, Any] = {"model": found.name, "num_classes": found.num_classes}
    if found.name.startswith("timm:") or found.num_classes == IMAGENET_CLASSES:
        card |= statistics(found.net, found.name)
    if found.image_size != image_size:
        card["image_size"] = found.image_size  # the only one that it can take
    if isinstance(payload.get("attention"), dict):
        foreign.log.warning("%s: SemCKD's attention is left out; only training needs it.", path)
    if not isinstance(payload.get("proj"), dict):
        return found.net, card
    if teacher is None:
        foreign.log.warning(
            "%s: SimKD's projector is left out, and this is the plain student, whose own "
            "classifier was not trained; the accuracy in the file is not this network's. With the "
            "teacher (--path_t) the network that was scored is built.",
            path,
        )
        return found.net, card
    net = simkd_file.build(found, payload["proj"], teacher, path)
    return net, {**card, "deploy": net.card}


def _is_users(name: str) -> bool:
    """Whether a card's architecture would import a module that a file should not choose."""
    return ":" in name and not name.startswith(("timm:", "torchvision:"))


def _looks_damaged(path: Path) -> bool:
    with path.open("rb") as file:
        magic = file.read(2)
    return magic not in (b"PK", b"\x80\x02")


def _nearest(path: Path) -> str:
    """What there is instead: the files beside, or the first folder of the path that is missing."""
    if path.parent.is_dir():
        beside = sorted(p.name for p in path.parent.glob("*.pth"))
        return (
            f"; its folder has {', '.join(beside)}." if beside else "; its folder has no .pth file."
        )
    missing = path.parent
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    return f"; the folder {missing} does not exist. Train it first with train_teacher.py."

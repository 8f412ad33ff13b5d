"""Files of weights: written whole or not at all, read without running what is in them."""

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers import models, wiring
from distillers.errors import InputError

FORMAT = 1
STATE_KEYS = ("model", "state_dict", "model_state_dict", "student", "net")


def save(path: Path, payload: dict[str, Any]) -> None:
    """Write `payload` beside `path`, then rename it: a failure leaves the old file whole.

    Args:
        path: the file.
        payload: tensors and plain types only.

    Raises:
        OSError: when it cannot be written; what was at `path` is still there.
    """
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomically(path, buffer.getbuffer())


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file aside, force it to the disk, and rename it into place."""
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, weights and plain types only; nothing in it is ever run.

    Raises:
        InputError: when there is none, it is damaged, or it holds objects that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}{_nearest(path)}")
    try:
        with warnings.catch_warnings():
            # Newer pickle protocols are read as far as the safe reader knows them, else refused.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _looks_damaged(path):
            raise InputError(f"{path} is damaged or not a checkpoint: {error}") from error
        raise InputError(
            f"{path} holds more than weights and was not opened: that could run code from it. "
            "If you trust it, convert it once where it was made: torch.save({'model': "
            "torch.load(FILE, weights_only=False)['model']}, NEW_FILE)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(payload, dict):
        raise InputError(f"{path} holds a {type(payload).__name__}, not a state dict.")
    return payload


def weights(payload: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of ours or of another project, `module.` prefixes removed."""
    state = next((payload[k] for k in STATE_KEYS if isinstance(payload.get(k), dict)), payload)
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path} has no state dict: none of {', '.join(STATE_KEYS)} holds one; it has "
            f"{', '.join(map(str, list(payload)[:8]))}."
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_network(
    path: str | Path,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    image_size: int = 32,
) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a checkpoint, ready to use, and its card.

    Args:
        path: a file of ours (with a card that names the architecture) or of another project.
        name: the architecture, where the file does not tell; else it must agree.
        num_classes: what the data has; refused where the file has another number.
        image_size: side of the images in pixels, for files without a card.

    Returns:
        the network on the CPU in evaluation mode, and the card (empty for a foreign file).

    Raises:
        InputError: when the architecture is unknown or does not fit the weights.
    """
    payload = load(path)
    state = weights(payload, path)
    card = payload.get("card") or {}
    if card.get("format", FORMAT) > FORMAT:
        raise InputError(f"{path} was written by a newer version of distillers; update to read it.")
    known = name_of(path, card, name)
    if _is_users(known) and name != known:
        raise InputError(
            f"{path} says that it is {known!r}, code outside of distillers. If you trust it, name "
            f"it yourself with --model_t {known}."
        )
    if name is not None and name != known:
        raise InputError(f"{path} is a {known}, not a {name}.")
    classes = card.get("num_classes") or _classes(state) or num_classes
    if num_classes is not None and classes is not None and classes != num_classes:
        raise InputError(f"{path} tells {classes} classes apart, the data set has {num_classes}.")
    if classes is None:
        raise InputError(f"{path} does not tell how many classes there are.")
    net = models.create(known, num_classes=classes, image_size=card.get("image_size", image_size))
    deploy = card.get("deploy")
    if deploy:
        if ":" in deploy["name"]:
            raise InputError(
                f"{path} needs {deploy['name']!r}, code outside of distillers, to be built again; "
                "import that loss and call its `rebuild` yourself."
            )
        net = cast(Any, wiring.find(deploy["name"])).rebuild(net, deploy)
    fill(net, state, path)
    return net.eval(), card


def name_of(path: str | Path, card: dict[str, Any], name: str | None = None) -> str:
    """The architecture by a card, else as given, else as the folder tells.

    Raises:
        InputError: when none of them does.
    """
    known = card.get("model") or name or name_from_folder(path)
    if known is None:
        raise InputError(
            f"{path} does not tell its architecture; name it, as in --model_t resnet32x4 (or "
            "--model for `distillers evaluate`)."
        )
    return known


def fill(net: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict, every tensor of it and nothing else.

    Raises:
        InputError: when names or shapes differ, with the first few.
    """
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        detail = "; ".join(line if len(line) < 160 else line[:157] + "..." for line in lines)
        raise InputError(f"{path} does not fit {type(net).__name__}: {detail}") from error


def name_from_folder(path: str | Path) -> str | None:
    """The network that a folder's name speaks of, by the habits of the documented system.

    `resnet32x4_vanilla`, `resnet110_cifar100_lr_0.05...`, `cifar100_vgg13_trial_0` and
    `S_resnet8_T_resnet20_...` (also with `S:`) are understood; the longest name that fits wins.
    """
    folder = Path(path).resolve().parent.name
    for prefix in ("S_", "S:", "cifar100_", "cifar10_", "imagenet_"):
        folder = folder.removeprefix(prefix)
    fitting = [
        name
        for name in models.names()
        if folder == name or folder.startswith((f"{name}_", f"{name}:"))
    ]
    return max(fitting, key=len, default=None)


def _is_users(name: str) -> bool:
    """Whether a card's architecture would import a module that a file should not choose."""
    return ":" in name and not name.startswith(("timm:", "torchvision:"))


def _classes(state: dict[str, Tensor]) -> int | None:
    """The number of classes by the last two-dimensional weight, the classifier's."""
    matrices = [value for value in state.values() if value.ndim == 2]
    return matrices[-1].shape[0] if matrices else None


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

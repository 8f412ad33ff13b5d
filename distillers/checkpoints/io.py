"""Save and read checkpoints: written atomically, read without running code in them."""

import io
import json
import logging
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from distillers.checkpoints.checksum import add_to_zip, check_checksum
from distillers.checkpoints.content import check_content, is_safetensors
from distillers.checkpoints.schema import check_card
from distillers.errors import CorruptFileError, InputError
from distillers.files import write_atomically

FORMAT = 1

log = logging.getLogger("distillers")
PROGRAMS = (".pt2", ".onnx", ".xml")
# Objects that training scripts store beside the weights, for which a placeholder is read.
IGNORED = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
)


def save(path: Path, payload: dict[str, Any], previous: Path | None = None) -> None:
    """Write a checkpoint atomically, with a checksum: if it fails, the old file stays.

    Args:
        path: the file.
        payload: tensors and plain types only.
        previous: where to keep the old file; it is dropped if this is None.

    Raises:
        OSError: if it cannot be written; what was at `path` is still there.
    """
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomically(path, add_to_zip(buffer.getbuffer()), previous)


def check_exists(path: Path) -> None:
    """Check that a file exists.

    Raises:
        InputError: if it does not; lists the checkpoints in its folder, or the missing folder. Also
            if this user may not read it.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}{_alternatives(path)}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: you lack the permission.")


def read(path: str | Path) -> dict[str, Any]:
    """Read the content of a checkpoint or a safetensors file without running any code in it.

    Raises:
        InputError: if there is no such file, it holds objects whose loading would run code, or its
            card is not valid.
        CorruptFileError: if it is damaged.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix in PROGRAMS:
        raise InputError(
            f"{path} is a program, not weights; name a checkpoint or a safetensors file instead."
        )
    has_checksum = check_checksum(path)
    payload = _read_safetensors(path) if is_safetensors(path) else _read_pickle(path)
    if not isinstance(payload, dict):
        raise InputError(f"{path} holds a {type(payload).__name__}, not a state dict.")
    if payload.get("card"):
        payload["card"] = check_card(payload["card"], path)
        if not has_checksum:
            log_unverified(path)
    return payload


def log_unverified(path: Path) -> None:
    """Log that a file has no checksum, so that damage to it may go unnoticed."""
    log.warning("%s: not verified, since it has no checksum.", path)


class Ignored:
    """Placeholder for an object in a checkpoint that is no weight; drops what it is built from."""

    def __new__(cls, *_: object) -> "Ignored":
        """Return a placeholder for any arguments."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Drop the state."""


def _read_pickle(path: Path) -> object:
    check_content(path, "a checkpoint")
    try:
        with warnings.catch_warnings(), safe_globals([(Ignored, name) for name in IGNORED]):
            # Newer pickle protocols are read as far as the safe reader knows them, else refused.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            warnings.filterwarnings("ignore", "Validating sparse tensor", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _looks_damaged(path):
            raise CorruptFileError(f"{path} is damaged or not a checkpoint.") from error
        raise InputError(
            f"{path} holds Python objects{_unsafe_names(path)} and was not opened: that could run "
            "code from it. Save the weights alone where the network is defined: "
            "torch.save(net.state_dict(), NEW_FILE)."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CorruptFileError(f"{path} is damaged or not a checkpoint: {reason}") from error


def _unsafe_names(path: Path) -> str:
    """Return the classes and functions that a file asks for, in brackets; "" if unknown."""
    try:
        names = sorted(set(get_unsafe_globals_in_checkpoint(path)) - set(IGNORED))
    except Exception:  # only for the message
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    check_content(path, "a safetensors file")
    try:
        with safe_open(path, "pt") as file:
            payload: dict[str, Any] = {"model": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
            metadata = file.metadata() or {}
        if "card" in metadata:
            payload["card"] = json.loads(metadata["card"])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is damaged or not a safetensors file: {error}") from error
    return payload


def _looks_damaged(path: Path) -> bool:
    with path.open("rb") as file:
        magic = file.read(2)
    return magic not in (b"PK", b"\x80\x02")


def _alternatives(path: Path) -> str:
    """Return the end of a message: the checkpoints beside a path, or its first missing folder."""
    if path.parent.is_dir():
        beside = sorted(p.name for p in path.parent.glob("*.pth"))
        return (
            f"; its folder has {', '.join(beside)}." if beside else "; its folder has no .pth file."
        )
    missing = path.parent
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    return f"; the folder {missing} does not exist. Train it first with train_teacher.py."

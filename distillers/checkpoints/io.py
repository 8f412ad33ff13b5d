"""Save and read checkpoints: written atomically, read without running code in them."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from distillers.checkpoints.checksum import add_checksum, has_wrong_checksum
from distillers.errors import CorruptFileError, InputError
from distillers.files import write_atomically

FORMAT = 1
PROGRAMS = (".pt2", ".onnx")


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
    write_atomically(path, add_checksum(buffer.getbuffer()), previous)


def check_exists(path: Path) -> None:
    """Check that a file exists.

    Raises:
        InputError: if it does not; lists the checkpoints in its folder, or the missing folder.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}{_alternatives(path)}")


def read(path: str | Path) -> dict[str, Any]:
    """Read the content of a checkpoint or a safetensors file without running any code in it.

    Raises:
        InputError: if there is no such file, or it holds objects whose loading would run code.
        CorruptFileError: if it is damaged.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix in PROGRAMS:
        raise InputError(
            f"{path} is a program, not weights; name a checkpoint or a safetensors file instead."
        )
    if has_wrong_checksum(path):
        raise CorruptFileError(f"{path} is damaged: its checksum does not fit its content.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
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


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            payload: dict[str, Any] = {"model": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
            metadata = file.metadata() or {}
        if "card" in metadata:
            payload["card"] = json.loads(metadata["card"])
    except (SafetensorError, OSError, ValueError) as error:
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

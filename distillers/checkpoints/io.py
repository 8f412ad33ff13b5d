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
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from distillers.checkpoints.checksum import add_to_zip, check_checksum
from distillers.checkpoints.content import check_content, is_index, is_safetensors
from distillers.checkpoints.schema import check_card
from distillers.checkpoints.shards import check_whole, weights_by_part
from distillers.data.datasets.listing import first_few
from distillers.errors import SAVE_WEIGHTS, CorruptFileError, InputError
from distillers.files import write_atomically

FORMAT = 1
MAX_BESIDE = 12  # checkpoints that a message lists

log = logging.getLogger("distillers")
PROGRAMS = (".pt2", ".onnx", ".xml")
# Objects that training scripts store beside the weights, for which a placeholder is read.
_MULTIARRAY = ("scalar", "_reconstruct")
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath")
_BY_MODULE = {
    "argparse": ("Namespace",),
    "builtins": ("dict", "float", "frozenset", "int", "list", "range", "slice"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
    "numpy": ("ndarray", "dtype"),
    **{f"numpy.{core}.multiarray": _MULTIARRAY for core in ("core", "_core")},
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": ("AnyNode",),
    "pathlib": ("Path", *_PATHS),
    "pathlib._local": _PATHS,
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
    "uuid": ("UUID",),
}
IGNORED = tuple(f"{module}.{name}" for module, names in _BY_MODULE.items() for name in names)
# These are filled with items after they are built.
CONTAINERS = ((lambda *_: {}, "collections.defaultdict"), (lambda *_: [], "collections.deque"))


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

    Of the index of weights in several files, all of these are read.

    Raises:
        InputError: if there is no such file, or not all parts of it, it holds objects whose loading
            would run code, or its card is not valid.
        CorruptFileError: if it is damaged.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix in PROGRAMS:
        raise InputError(
            f"{path} is a program, not weights; name a checkpoint or a safetensors file instead."
        )
    if is_index(path):
        return _read_parts(path)
    check_whole(path)
    has_checksum = check_checksum(path)
    payload = _read_safetensors(path) if is_safetensors(path) else _read_pickle(path)
    if not isinstance(payload, dict):
        raise InputError(
            f"{path} holds a {type(payload).__name__}, not a state dict. {SAVE_WEIGHTS}."
        )
    if isinstance(payload.get("card"), Tensor):
        payload = {"model": payload}  # the name of a weight
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
    placeholders: list[Any] = [*CONTAINERS, *((Ignored, name) for name in IGNORED)]
    try:
        with warnings.catch_warnings(), safe_globals(placeholders):
            # Newer pickle protocols are read as far as the safe reader knows them, else refused.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            warnings.filterwarnings("ignore", "Validating sparse tensor", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            magic = file.read(2)
        if magic not in (b"PK", b"\x80\x02"):
            raise CorruptFileError(f"{path} is damaged or not a checkpoint.") from error
        raise InputError(
            f"{path} holds Python objects{_unsafe_names(path)} and was not opened: that could run "
            f"code from it. {SAVE_WEIGHTS} where the network is defined."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CorruptFileError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__})."
        ) from error


def _unsafe_names(path: Path) -> str:
    """Return the classes and functions that a file asks for, in brackets; "" if unknown."""
    try:
        known = {*IGNORED, *(name for _, name in CONTAINERS)}
        names = sorted(set(get_unsafe_globals_in_checkpoint(path)) - known)
    except Exception:  # only for the message
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    check_content(path, "a safetensors file")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        card = json.loads(metadata.get("card", "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is damaged or not a safetensors file: {error}") from error
    if not tensors:
        raise CorruptFileError(f"{path} holds no tensors; write it again.")
    return {"model": tensors, "card": card}


def _read_parts(index: Path) -> dict[str, Any]:
    """Return the weights of all files that an index names, as one state dict."""
    weights: dict[str, Any] = {}
    for path, names in weights_by_part(index).items():
        check_checksum(path)
        content = _read_safetensors(path)["model"] if is_safetensors(path) else _read_pickle(path)
        part: dict[str, Any] = content if isinstance(content, dict) else {}
        found = set(part)
        if found != set(names):
            raise CorruptFileError(
                f"{path} does not hold the weights that {index.name} names "
                f"({first_few(sorted(map(str, found ^ set(names))))}); download both again."
            )
        weights |= part
    return weights


def _alternatives(path: Path) -> str:
    """Return the end of a message: the checkpoints beside a path, or its first missing folder."""
    if path.parent.is_dir():
        beside = sorted(p.name for p in path.parent.glob("*.pth"))
        beside = [*beside[:MAX_BESIDE], *(["..."] if len(beside) > MAX_BESIDE else [])]
        return (
            f"; its folder has {', '.join(beside)}." if beside else "; its folder has no .pth file."
        )
    missing = path.parent
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    return f"; the folder {missing} does not exist. Train it first with train_teacher.py."

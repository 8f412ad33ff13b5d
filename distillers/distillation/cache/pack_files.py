"""Read the files of a pack: verified and checked, so that no other file is taken for one."""

from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from distillers.config.run_files import check_fields, load_json
from distillers.config.schema import Bounds
from distillers.config.teachers import PACK_FILE
from distillers.data.image_hash import HASH_BYTES
from distillers.errors import CorruptFileError, InputError, shorten
from distillers.files import file_name, sha256

FORMAT, MANIFEST = 1, PACK_FILE
Count = Annotated[int, Bounds(1, 10**12)]


class _Manifest(TypedDict):
    format: Annotated[int, Bounds(0, 10**6)]
    images: Count
    views: Count
    num_classes: Annotated[int, Bounds(1, 10**6)] | None
    top_k: Annotated[int, Bounds(1, 10**6)] | None
    class_names: Annotated[list[str], Bounds(0, 10**6)]
    augmentation: dict[str, Any]
    teacher: dict[str, Any]
    shards: Annotated[list[dict[str, Any]], Bounds(1, 10**6)]


class _Shard(TypedDict):
    file: str
    sha256: str


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of `pack.json`.

    Raises:
        CorruptFileError: if it is damaged or not valid.
        InputError: if there is none, or it was written by a newer version.
    """
    path = folder / MANIFEST
    try:
        manifest, is_verified = load_json(path)
        if not is_verified:
            raise CorruptFileError("it has no SHA-256.")
        check_fields(manifest, _Manifest, MANIFEST)
        for shard in manifest["shards"]:
            check_fields(shard, _Shard, MANIFEST)
            if shard["file"] != file_name(shard["file"]):
                raise CorruptFileError(f"{shard['file']!r:.60} is no file of a pack.")
    except FileNotFoundError as error:
        raise InputError(f"{folder} is no pack: it has no {MANIFEST}.") from error
    except CorruptFileError as error:
        raise CorruptFileError(f"{path} is damaged: {error} Copy the pack again.") from error
    if manifest["format"] > FORMAT:
        raise InputError(f"{folder} was written by a newer version of distillers; update it.")
    return manifest


def read_shards(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of all shards, joined.

    Raises:
        CorruptFileError: if a byte is not as it was written, or a tensor is not as described.
        InputError: if a shard is missing.
    """
    parts = []
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise InputError(f"{path} is missing; the pack is incomplete.")
        if sha256(path) != shard["sha256"]:
            raise CorruptFileError(
                f"{path} is damaged: its SHA-256 is not the one of {MANIFEST}. Copy it again."
            )
        parts.append(path)
    try:
        tensors = [load(path.read_bytes()) for path in parts]
        stored = {name: torch.cat([each[name] for each in tensors]) for name in tensors[0]}
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise CorruptFileError(f"the shards of {folder} do not fit together ({error}).") from error
    _check_tensors(stored, manifest, folder)
    return stored


def _check_tensors(stored: dict[str, Tensor], manifest: dict[str, Any], folder: Path) -> None:
    """Check names and shapes, and that the numbers of classes are in range."""
    images, views, classes = (manifest[name] for name in ("images", "views", "num_classes"))
    expected: dict[str, tuple[int, ...]] = {"image": (images, HASH_BYTES)}
    if classes is not None and "logits" in stored:
        expected |= {"logits": (images, views, classes), "logits_scale": (images, views)}
    elif classes is not None:
        top = (images, views, manifest["top_k"])
        expected |= {"top_logits": top, "top_classes": top}
        expected |= {"logits_scale": (images, views), "rest": (images, views)}
    if "pooled" in stored:
        width = stored["pooled"].shape[-1]
        expected |= {"pooled": (images, views, width), "pooled_scale": (images, views)}
    found = {name: tuple(value.shape) for name, value in stored.items()}
    numbers = stored.get("top_classes", torch.zeros(1)).long()
    in_range = int(numbers.min()) >= 0 and int(numbers.max()) < (classes or 1)
    if found != expected or not in_range or stored["image"].dtype != torch.uint8:
        raise CorruptFileError(f"the tensors of {folder} are not a pack's: {shorten(found)}.")

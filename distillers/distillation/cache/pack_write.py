"""Write packs of soft labels; `pack.py` describes and reads them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from distillers.config.run_files import dump_json
from distillers.data.image_hash import image_hashes
from distillers.data.source import DataSource
from distillers.distillation.cache.pack import augmentation_of
from distillers.distillation.cache.pack_files import FORMAT, MANIFEST
from distillers.distillation.cache.pack_format import Precision, encode_embeddings, encode_logits
from distillers.distillation.cache.teacher_cache import TeacherCache
from distillers.errors import InputError
from distillers.files import write_atomically

SHARD_BYTES = 256 * 2**20
STORED = ("teacher_logits", "teacher_pooled")
ROWS = 4096  # rows of a cache that are read at once


class PackOptions(NamedTuple):
    """What a pack stores.

    Attributes:
        top_k: number of largest logits, the others by their mass; None stores all.
        embeddings: precision of the embeddings; "none" leaves them out.
    """

    top_k: int | None = None
    embeddings: Precision = "half"


def read_cache(cache: TeacherCache, num_rows: int) -> dict[str, Tensor]:
    """Return all rows of a full cache by the names of the losses' parameters.

    Raises:
        InputError: if it holds anything else than logits and embeddings.
    """
    nothing = torch.empty(0)
    parts = [
        cache.values(nothing, torch.from_numpy(rows))
        for rows in np.split(np.arange(num_rows), range(ROWS, num_rows, ROWS))
    ]
    others = sorted(set(parts[0]) - set(STORED))
    if others:
        raise InputError(
            f"a pack holds logits and embeddings, but the losses read {', '.join(others)}, too; "
            "take other losses, as kd or rrd."
        )
    return {name: torch.cat([torch.as_tensor(part[name]) for part in parts]) for name in parts[0]}


def write_pack(
    folder: Path,
    values: Mapping[str, Tensor],
    source: DataSource,
    num_views: int,
    options: PackOptions,
    teacher: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a pack, and return its manifest.

    Args:
        folder: a new or empty folder.
        values: "teacher_logits" (V N, k), "teacher_pooled" (V N, d) or both: row v N + i is view v
            of image i.
        source: the N training images.
        num_views: V.
        options: what to store.
        teacher: facts about the teacher, of JSON types, for people.

    Raises:
        InputError: if the folder holds files, or a value is not finite.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; name a new one for the pack.")
    hashes = image_hashes(source)
    stored: dict[str, Tensor] = {}
    if "teacher_logits" in values:
        stored |= encode_logits(values["teacher_logits"], options.top_k)
    if "teacher_pooled" in values:
        stored |= encode_embeddings(values["teacher_pooled"], options.embeddings)
    if not stored:
        raise InputError("nothing is left to store: the losses read neither logits nor embeddings.")
    by_image = {
        name: value.view(num_views, len(hashes), *value.shape[1:]).transpose(0, 1)
        for name, value in stored.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    row_bytes = sum(each[0].numel() * each.element_size() for each in by_image.values())
    per_shard = max(1, SHARD_BYTES // row_bytes)
    shards = []
    for number, rows in enumerate(torch.arange(len(hashes)).split(per_shard)):
        content = {name: value[rows].contiguous() for name, value in by_image.items()}
        data = save({"image": hashes[rows], **content})
        name = f"pack-{number:05d}.safetensors"
        write_atomically(folder / name, data)
        shards.append(
            {"file": name, "images": len(rows), "sha256": hashlib.sha256(data).hexdigest()}
        )
    logits = values.get("teacher_logits")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "images": len(hashes),
        "views": num_views,
        "num_classes": None if logits is None else logits.shape[1],
        "class_names": list(source.class_names),
        "augmentation": augmentation_of(source),
        "teacher": dict(teacher),
        "top_k": options.top_k,
        "tensors": sorted(stored),
        "shards": shards,
    }
    write_atomically(folder / MANIFEST, dump_json(manifest))
    return manifest

"""Portable packs of soft labels: a teacher's outputs for views of images, without the teacher.

A pack is a folder of safetensors shards and `pack.json`, which holds their SHA-256 and its own. An
image is known by a hash of its file (of its pixels if it is in memory), so that a pack fits the
same images in any order and under any name.
"""

import shutil
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.data import NumViews
from distillers.config.flags import as_json_types
from distillers.config.run_files import json_digest
from distillers.config.teachers import is_pack
from distillers.data.batch import Batch, Values
from distillers.data.datasets.listing import first_few
from distillers.data.image_hash import image_hashes, image_name
from distillers.data.loaders.views import num_views_of
from distillers.data.source import DataSource
from distillers.distillation.cache.loader import StoredOutputs
from distillers.distillation.cache.pack_files import MANIFEST, read_manifest, read_shards
from distillers.distillation.cache.pack_format import decode_embeddings, decode_logits
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.files import write_atomically

# Entries of a data set's fingerprint that say which images there are, not how they are augmented.
OF_IMAGES = ("name", "images", "pixels", "files", "labels", "mean", "std")


def open_pack(path: str | None) -> "Pack | None":
    """Open the pack in a folder; None if that is no pack."""
    return Pack(path) if path is not None and is_pack(path) else None


def views_of_pack(views: NumViews | None, pack: "Pack", source: DataSource) -> NumViews:
    """Return the number of views of a run that reads a pack: as given, or those of the pack.

    Raises:
        InputError: if the pack has fewer.
    """
    if views is None:
        return "all" if pack.num_views == source.num_crops else pack.num_views
    wanted = num_views_of(views, source)
    if wanted > pack.num_views:
        raise InputError(f"--views is {views}, but the pack {pack.folder} has {pack.num_views}.")
    return views


def augmentation_of(source: DataSource) -> dict[str, Any]:
    """Return how the views of a data set's images are made."""
    return {name: each for name, each in source.fingerprint().items() if name not in OF_IMAGES}


class Pack(StoredOutputs):
    """An opened pack, which replaces a teacher whose logits and embeddings are read.

    Attributes:
        folder: as given.
        manifest: the content of `pack.json`.
        widths: of what it has, by the names of the losses' parameters.

    Raises:
        CorruptFileError: if a byte of a file is not as it was written, or the content is not valid.
        InputError: if there is no pack, or it was written by a newer version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        self._stored = read_shards(self.folder, self.manifest)
        self._hashes = self._stored.pop("image")
        classes = self.manifest["num_classes"]
        self.widths = {} if classes is None else {"teacher_logits": classes}
        if "pooled" in self._stored:
            self.widths["teacher_pooled"] = self._stored["pooled"].shape[-1]

    @property
    def num_views(self) -> int:
        """Number of views of each image."""
        return self.manifest["views"]

    def align(self, source: DataSource) -> DataSource:
        """Return a data set whose training images are those of the pack, in the pack's order.

        Views are numbered by the order of the images, so this gives each image the views that the
        teacher saw, whatever the order or the names of the files.

        Raises:
            InputError: if images, classes or augmentation are not those of the pack.
        """
        self._check_classes(source)
        rows: dict[bytes, list[int]] = {}
        for row, image in enumerate(image_hashes(source)):
            rows.setdefault(image.numpy().tobytes(), []).append(row)
        mine = [image.numpy().tobytes() for image in self._hashes]
        order = [rows[image].pop(0) if rows.get(image) else -1 for image in mine]
        missing = order.count(-1)
        extra = [image_name(source, row) for left in rows.values() for row in left]
        if missing or extra:
            raise InputError(
                f"{self.folder} is a pack of other images: {missing:,} of its {len(mine):,} images "
                f"are not among the training images, and {len(extra):,} training images are not in "
                f"it ({first_few(extra)})."
            )
        self._check_augmentation(source)
        return source.keep(torch.tensor(order, dtype=torch.int64))

    def check_reads(self, names: Iterable[str]) -> None:
        """Check that the pack has what losses read, by the names of their parameters.

        Raises:
            InputError: naming what is missing.
        """
        lacking = sorted(set(names) - self.widths.keys())
        if lacking:
            raise InputError(
                f"the losses read {', '.join(lacking)}, but the pack {self.folder} has only "
                f"{', '.join(self.widths)}."
            )

    def check_teacher(self, key: Mapping[str, Any]) -> None:
        """Check that a teacher, by its `network_key`, computed the pack, as far as that is known.

        Raises:
            InputError: if it is another.
        """
        known = self.manifest["teacher"]
        other = [name for name in key if name in known and known[name] != key[name]]
        if other:
            raise InputError(
                f"the pack {self.folder} was computed by another teacher, {known.get('model')}: "
                f"its {' and '.join(other)} differ. Give that teacher's file, or train from the "
                f"pack alone with --path_t {self.folder}."
            )

    def values(self, view: Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return what the teacher computed, by the names of the losses' parameters, in float32.

        `view`, (n,) int64, is as in `Batch.view`: v N + i is view v of image i.
        """
        number, row = view // len(self._hashes), view % len(self._hashes)
        part = {name: value[row, number] for name, value in self._stored.items()}
        found = {}
        if "teacher_logits" in self.widths:
            found["teacher_logits"] = decode_logits(part, self.widths["teacher_logits"])
        if "teacher_pooled" in self.widths:
            found["teacher_pooled"] = decode_embeddings(part)
        return {name: value.to(device) for name, value in found.items()}

    @override
    def read(self, batch: Batch) -> Values:
        assert batch.view is not None  # `CachedTeacherLoader` checks it
        return self.values(batch.view, batch.images.device)

    @override
    def report_damage(self) -> None:
        return  # all files were verified when the pack was opened

    @override
    def total_computed(self, world: World) -> int:
        return 0

    def copy(self, above: Path) -> Path:
        """Copy the pack into a folder of caches, and return where it is."""
        there = above / f"pack-{json_digest(self.manifest)[:12]}"
        if not is_pack(there):
            shards = shutil.ignore_patterns(MANIFEST)  # which is last, so that a part is no pack
            shutil.copytree(self.folder, there, ignore=shards, dirs_exist_ok=True)
            write_atomically(there / MANIFEST, (self.folder / MANIFEST).read_bytes())
        return there

    def _check_classes(self, source: DataSource) -> None:
        mine, others = self.manifest["class_names"], list(source.class_names)
        if mine == others:
            return
        pairs = zip_longest(mine, others, fillvalue="none")
        place, pair = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"{self.folder} is a pack for other classes, {len(mine)} there and {len(others)} here: "
            f"class {place} is {pair[0]} there and {pair[1]} here."
        )

    def _check_augmentation(self, source: DataSource) -> None:
        mine, others = self.manifest["augmentation"], as_json_types(augmentation_of(source))
        names = sorted(n for n in {*mine, *others} if mine.get(n) != others.get(n))
        if names:
            shown = ", ".join(f"{n} {mine.get(n)} there, {others.get(n)} here" for n in names)
            raise InputError(
                f"{self.folder} is a pack of another augmentation: {shown}. "
                "Give the flags that it was exported with."
            )

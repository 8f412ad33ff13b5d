"""What the losses ask of the teacher, read from a cache and computed where it is missing."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from distillers.data.batch import Batch, Values
from distillers.data.source import BatchLoader, WrappedLoader
from distillers.distillation.cache.folder import CacheFolder, explain_disk_errors
from distillers.distillation.cache.part import Part
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from distillers.files import file_name

LISTS = ("teacher_maps", "teacher_preacts")  # values that are a tensor a stage


class CachedTensor(NamedTuple):
    """One tensor that is read of the teacher.

    Attributes:
        name: of the part that keeps it.
        identity: where it is read, with the "shape" of one image's, in plain types.
    """

    name: str
    identity: dict[str, Any]

    @property
    def row_bytes(self) -> int:
        """What an image's takes on the disk, with its checksum."""
        return 2 * int(np.prod(self.identity["shape"])) + 8


def cached_tensors(task: Distillation, images: Tensor) -> dict[str, list[CachedTensor | None]]:
    """The tensors that make each value of the teacher, by the value's name.

    A module's output is one tensor whether it is read as a stage map or as the final map.

    Args:
        task: whose losses read the teacher.
        images: (n, c, h, w), a few, of the size that the networks see.

    Returns:
        one for each tensor of a value; None for a stage map that no loss reads.
    """
    taps, stages = task.teacher_taps, task.teacher_stages
    layouts = dict(taps.layouts)
    found: dict[str, list[CachedTensor | None]] = {}
    for name, value in task.read_teacher(images).items():
        kind = name.removeprefix("teacher_")
        tensors = value if isinstance(value, list) else [value]
        places = taps.places(kind) or [("", "out")] * len(tensors)
        found[name] = []
        for number, ((path, side), tensor) in enumerate(zip(places, tensors, strict=True)):
            if kind == "maps" and number not in stages:
                found[name].append(None)
                continue
            pooled = kind in ("logits", "pooled") or path == taps.head
            part = kind if pooled else file_name(f"map-{path}-{side}")
            identity = {"module": path, "side": side, "shape": list(tensor.shape[1:])}
            identity["layout"] = str(layouts.get((path, side), "plain"))
            found[name].append(CachedTensor(part, identity))
    return found


def unique_tensors(reads: dict[str, list[CachedTensor | None]]) -> list[CachedTensor]:
    """Those of `cached_tensors` that a cache stores, each once."""
    return list({read.name: read for each in reads.values() for read in each if read}.values())


class TeacherCache:
    """Gives what the losses ask of the teacher for views of training images.

    What is computed is stored and then read back. So every epoch, and every run that shares the
    cache, learns from the same numbers, those of the first process that stored them.

    Args:
        folder: of the cache.
        task: whose teacher computes what is missing.
        reads: of `cached_tensors`.
        num_rows: views of all images.

    Attributes:
        folder: as given.
        num_computed: views that the teacher was run for.
    """

    def __init__(
        self,
        folder: CacheFolder,
        task: Distillation,
        reads: dict[str, list[CachedTensor | None]],
        num_rows: int,
    ) -> None:
        self.folder = folder
        self.num_computed = 0
        self._told = 0
        self._task = task
        self._parts: dict[str, Part] = {
            read.name: folder.part(read.name, read.identity, num_rows)
            for read in unique_tensors(reads)
        }
        self._names = {
            name: [read.name if read else None for read in each] for name, each in reads.items()
        }

    @property
    def num_damaged(self) -> int:
        """Rows that did not have their checksum and were computed anew."""
        return sum(part.num_damaged for part in self._parts.values())

    @property
    def disk_bytes(self) -> int:
        """What the parts that are read take on the disk."""
        return sum(part.disk_bytes for part in self._parts.values())

    def num_filled(self) -> int:
        """Views of which everything that is read is there, or more where runs fill at once."""
        return min(part.num_filled() for part in self._parts.values())

    def present(self, rows: np.ndarray) -> np.ndarray:
        """(n,) whether everything that is read of each view, (n,) int64, is there."""
        return np.logical_and.reduce([part.present(rows) for part in self._parts.values()])

    def fill(self, images: Tensor, view: Tensor) -> None:
        """Run the teacher for those views that are not there, and store what it gives.

        Args:
            images: (n, c, h, w).
            view: (n,) int64, as in `Batch`.

        Raises:
            InputError: when there is no room, or the teacher's values are no finite numbers.
        """
        rows = view.numpy()
        missing = np.flatnonzero(~self.present(rows))
        if not len(missing):
            return
        if len(missing) < len(rows):
            images = images[torch.from_numpy(missing).to(images.device)]
        values = self._task.read_teacher(images)
        self.num_computed += len(missing)
        with explain_disk_errors(self.folder.path), self.folder.locked():
            for name, value in values.items():
                tensors = value if isinstance(value, list) else [value]
                for part, tensor in zip(self._names[name], tensors, strict=True):
                    if part is not None:
                        self._parts[part].write(rows[missing], tensor)

    def values(self, images: Tensor, view: Tensor) -> Values:
        """What the losses ask of the teacher, float32, by the names that they use.

        An empty tensor stands for a stage map that none reads.
        """
        self.fill(images, view)
        rows = view.numpy()
        with explain_disk_errors(self.folder.path):
            read = {n: part.read(rows, images.device) for n, part in self._parts.items()}
        values: dict[str, Tensor | list[Tensor]] = {}
        for name, parts in self._names.items():
            tensors = [images.new_empty(0) if part is None else read[part] for part in parts]
            values[name] = tensors if name in LISTS else tensors[0]
        return values

    def wrap(self, loader: BatchLoader) -> "CachedTeacherLoader":
        """`loader`, whose batches then bring along what the losses ask of the teacher."""
        return CachedTeacherLoader(loader, self)

    def total_computed(self, world: World) -> int:
        """Views that the teacher was run for, in all processes; all must ask."""
        return int(world.sum(torch.tensor(self.num_computed)))

    def report_damage(self) -> None:
        """Say of which rows that were damaged nobody was told yet."""
        new = self.num_damaged - self._told
        if new:
            self._told += new
            print(
                f"teacher cache: {new:,} rows in {self.folder.path} did not have their checksum "
                "and were computed anew",
                file=sys.stderr,
                flush=True,
            )


class CachedTeacherLoader(WrappedLoader):
    """A loader whose batches bring along what the losses ask of the teacher.

    Args:
        loader: with fixed views.
        cache: of the same views.
    """

    def __init__(self, loader: BatchLoader, cache: TeacherCache) -> None:
        super().__init__(loader)
        self._cache = cache

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        for batch in self._loader.epoch(number, start_batch):
            if batch.view is None:
                raise TypeError("a teacher cache needs a loader that tells views")
            yield replace(batch, teacher=self._cache.values(batch.images, batch.view))
        self._cache.report_damage()

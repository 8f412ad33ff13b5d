"""Read the teacher's features from a cache, and compute those that are missing."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from distillers.config.sizes import pluralize
from distillers.data.batch import Batch, Values
from distillers.distillation.cache.folder import CacheFolder, explain_disk_errors
from distillers.distillation.cache.loader import StoredOutputs
from distillers.distillation.cache.part import Part
from distillers.distillation.distillation import Distillation
from distillers.distillation.multi_teacher import renamed
from distillers.distributed.world import World
from distillers.errors import complain
from distillers.features.taps import LISTS
from distillers.files import file_name


class CachedTensor(NamedTuple):
    """One feature tensor of the teacher.

    Attributes:
        name: of the part that stores it.
        identity: where it is read, and the "shape" for one image, in JSON-compatible types.
    """

    name: str
    identity: dict[str, Any]

    @property
    def row_bytes(self) -> int:
        """Bytes on the disk for one image, with the checksum."""
        return 2 * int(np.prod(self.identity["shape"])) + 8


def cached_tensors(
    task: Distillation, images: Tensor, number: int = 0
) -> dict[str, list[CachedTensor | None]]:
    """Return the tensors of each feature that the losses read of the teacher, by its name.

    The output of a module is one tensor, whether it is read as a stage map or as the final map.

    Returns:
        a list for each feature, with None for a stage map or tokens that no loss reads.
    """
    taps = task.teachers[number].extractor.taps
    read = task.places_read(number)
    layouts = dict(taps.layouts)
    found: dict[str, list[CachedTensor | None]] = {}
    for name, value in task.read_teacher(images, number).items():
        kind = name.removeprefix("teacher_")
        tensors = value if isinstance(value, list) else [value]
        places = taps.places(kind) or [("", "out")] * len(tensors)
        found[name] = []
        for i, ((path, side), tensor) in enumerate(zip(places, tensors, strict=True)):
            if i not in read.get(kind, (i,)):
                found[name].append(None)
                continue
            single = kind in ("logits", "pooled", "class_maps") or path == taps.head
            what = "tokens" if kind == "tokens" else "map"
            part = kind if single else file_name(f"{what}-{path}-{side}")
            identity = {"module": path, "side": side, "shape": list(tensor.shape[1:])}
            identity["layout"] = str(layouts.get((path, side), "plain"))
            found[name].append(CachedTensor(part, identity))
    return found


def unique_tensors(reads: dict[str, list[CachedTensor | None]]) -> list[CachedTensor]:
    """Return the different tensors in the result of `cached_tensors`."""
    return list({read.name: read for each in reads.values() for read in each if read}.values())


class TeacherCache(StoredOutputs):
    """The teacher's features for all views of the training images.

    Features that are computed are stored and then read back. So all epochs, and all runs that share
    the cache, use the same values: those of the first process that stored them.

    Missing views are computed by the task's teacher `number`, from 0. The `tensors` are the result
    of `cached_tensors`, and `num_rows` is the number of images times the number of views.
    """

    def __init__(
        self,
        folder: CacheFolder,
        task: Distillation,
        tensors: dict[str, list[CachedTensor | None]],
        num_rows: int,
        number: int = 0,
    ) -> None:
        self.folder = folder
        self.num_computed = 0
        self._num_reported = 0
        self._task, self._number = task, number
        self._parts: dict[str, Part] = {
            read.name: folder.part(read.name, read.identity, num_rows)
            for read in unique_tensors(tensors)
        }
        self._names = {
            name: [read.name if read else None for read in each] for name, each in tensors.items()
        }

    @property
    def num_damaged(self) -> int:
        """Number of rows that were computed again because their checksum did not match."""
        return sum(part.num_damaged for part in self._parts.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the parts that are read."""
        return sum(part.disk_bytes for part in self._parts.values())

    def num_filled(self) -> int:
        """Return the number of complete views, an upper bound while other runs fill the cache."""
        return min(part.num_filled() for part in self._parts.values())

    def present(self, rows: np.ndarray) -> np.ndarray:
        """Return whether each view, (n,) int64, is complete, as (n,) bool."""
        return np.logical_and.reduce([part.present(rows) for part in self._parts.values()])

    def fill(self, images: Tensor, view: Tensor) -> None:
        """Run the teacher for missing views, and store its features.

        Raises:
            InputError: if the disk is full, or a feature is not finite.
        """
        rows = view.numpy()
        missing = np.flatnonzero(~self.present(rows))
        if not len(missing):
            return
        if len(missing) < len(rows):
            images = images[torch.from_numpy(missing).to(images.device)]
        values = self._task.read_teacher(images, self._number)
        self.num_computed += len(missing)
        with explain_disk_errors(self.folder.path), self.folder.locked():
            for name, value in values.items():
                tensors = value if isinstance(value, list) else [value]
                for part, tensor in zip(self._names[name], tensors, strict=True):
                    if part is not None:
                        self._parts[part].write(rows[missing], tensor)

    def values(self, images: Tensor, view: Tensor) -> Values:
        """Return the features that the losses read, in float32, by the names of their parameters.

        Stage maps that no loss reads are empty tensors.
        """
        self.fill(images, view)
        rows = view.numpy()
        with explain_disk_errors(self.folder.path):
            read = {n: part.read(rows, images.device) for n, part in self._parts.items()}
        values: dict[str, Tensor | list[Tensor]] = {}
        for name, parts in self._names.items():
            tensors = [images.new_empty(0) if part is None else read[part] for part in parts]
            values[name] = tensors if name.removeprefix("teacher_") in LISTS else tensors[0]
        return values

    @override
    def read(self, batch: Batch) -> Values:
        assert batch.view is not None  # `CachedTeacherLoader` checks it
        return renamed(self.values(batch.teacher_images, batch.view), self._number)

    @override
    def total_computed(self, world: World) -> int:
        return int(world.sum(torch.tensor(self.num_computed)))

    @override
    def report_damage(self) -> None:
        new = self.num_damaged - self._num_reported
        if new:
            self._num_reported += new
            complain(
                f"teacher cache: computed again, since the checksum did not match: "
                f"{pluralize(new, 'row')} in {self.folder.path}"
            )

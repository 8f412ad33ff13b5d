"""Add stored outputs of a teacher to batches."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from typing_extensions import override

from distillers.data.batch import Batch, Values
from distillers.data.source import BatchLoader, WrappedLoader
from distillers.distributed.world import World


class StoredOutputs(Protocol):
    """Outputs of a teacher for fixed views of the training images: a cache or a pack."""

    def read(self, batch: Batch) -> Values:
        """Return the outputs for the views of a batch, by their keys in `Batch.teacher`."""

    def report_damage(self) -> None:
        """Print how much was damaged and computed again since the last call."""

    def total_computed(self, world: World) -> int:
        """Return for how many views the teacher ran; a collective call."""


class CachedTeacherLoader(WrappedLoader):
    """A loader of fixed views that adds the outputs of a teacher to its batches."""

    def __init__(self, loader: BatchLoader, outputs: StoredOutputs) -> None:
        super().__init__(loader)
        self._outputs = outputs

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        for batch in self._loader.epoch(number, start_batch):
            if batch.view is None:
                raise TypeError("stored outputs need a loader whose batches have `view`")
            yield replace(batch, teacher={**(batch.teacher or {}), **self._outputs.read(batch)})
        self._outputs.report_damage()

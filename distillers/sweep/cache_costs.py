"""What the teacher caches of a sweep save, and their size on disk."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from distillers.config.sizes import num_bytes
from distillers.config.student import StudentConfig
from distillers.data.batch import Batch
from distillers.data.loaders.views import num_views_of, resolve_views
from distillers.data.source import BatchLoader, DataSource, WrappedLoader
from distillers.distillation.cache.teacher_cache import cached_tensors, unique_tensors
from distillers.distillation.distillation import Distillation


@dataclass(frozen=True)
class CacheUse:
    """What a run stores in its teacher cache.

    Attributes:
        num_views: views per image.
        view_bytes: size of one view of all images, by cached tensor.
    """

    num_views: int
    view_bytes: Mapping[str, float]


def cache_use(
    config: StudentConfig, task: Distillation, source: DataSource, num_images: int, sample: Tensor
) -> CacheUse | None:
    """Return what a run stores in its teacher cache, None if it uses none or exceeds its budget.

    Args:
        config: its flags.
        task: its losses.
        source: its data set.
        num_images: number of training images.
        sample: (n, c, h, w), a few images as the networks see them.
    """
    views = resolve_views(config.views, config.teacher_cache is not None, source)
    if config.teacher_cache is None or views is None:
        return None
    num_views = num_views_of(views, source)
    tensors = unique_tensors(cached_tensors(task, sample))
    view_bytes = {tensor.name: num_images * tensor.row_bytes for tensor in tensors}
    total = num_views * sum(view_bytes.values())
    if not total or total > num_bytes(config.cache_budget, "cache_budget"):
        return None
    return CacheUse(num_views, view_bytes)


class WarmCacheLoader(WrappedLoader):
    """A loader whose batches all hold the teacher's values of the first batch.

    A step then costs what it does with a full cache, except for the reading.

    Args:
        loader: loader of batches of equal size.
        task: the task whose losses read the teacher.
    """

    def __init__(self, loader: BatchLoader, task: Distillation) -> None:
        super().__init__(loader)
        self._task = task

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        values = None
        for batch in self._loader.epoch(number, start_batch):
            values = values or self._task.read_teacher(batch.images)
            yield replace(batch, teacher=values)


class CacheSimulation:
    """Fills the caches of a sweep, run after run, on average.

    A run of E epochs sees E of the V views of an image, or all V. Views that no earlier run saw are
    computed; if V > E, runs are assumed to see independent views.
    """

    def __init__(self) -> None:
        self._num_filled: defaultdict[tuple, float] = defaultdict(float)

    def add(self, config: StudentConfig, use: CacheUse) -> tuple[float, float]:
        """Simulate a run; return the epochs in which the teacher runs, and the bytes written."""
        split = (config.val_fraction, config.trial) if config.val_fraction else None
        cache = (config.teacher_cache, config.path_t, config.dataset, config.data_dir, split)
        seen = min(config.epochs, use.num_views)
        epochs = size = 0.0
        for name, view_bytes in use.view_bytes.items():
            key = (*cache, name)
            new = seen * (1 - min(1.0, self._num_filled[key] / use.num_views))
            self._num_filled[key] += new
            epochs, size = max(epochs, new), size + new * view_bytes
        return epochs, size

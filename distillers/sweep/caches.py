"""What teacher caches save the runs of a sweep, and what they take on the disk."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

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
class Cached:
    """What a run asks of its cache.

    Attributes:
        num_views: of each image.
        view_bytes: what one view of all images takes, by part of the cache.
    """

    num_views: int
    view_bytes: Mapping[str, float]


def asked(
    config: StudentConfig, task: Distillation, source: DataSource, num_images: int, sample: Tensor
) -> Cached | None:
    """What a run would cache; None where it would not, for its budget among other reasons.

    Args:
        config: its flags.
        task: whose losses read the teacher.
        source: its data.
        num_images: that are trained on.
        sample: (n, c, h, w), a few images as the networks see them.
    """
    views = resolve_views(config.views, config.teacher_cache is not None, source)
    if config.teacher_cache is None or views is None:
        return None
    num_views = num_views_of(views, source)
    view_bytes = {
        r.name: num_images * r.row_bytes for r in unique_tensors(cached_tensors(task, sample))
    }
    whole = num_views * sum(view_bytes.values())
    if not view_bytes or whole > num_bytes(config.cache_budget, "cache_budget"):
        return None
    return Cached(num_views, view_bytes)


class WarmCacheLoader(WrappedLoader):
    """A loader whose batches bring along what the teacher said of the first one's images.

    So a step costs what it does beside a cache that holds everything, the reading aside.

    Args:
        loader: whose batches are of one size.
        task: whose losses read the teacher.
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


@dataclass
class Caches:
    """How full the caches of a sweep are, after the runs that were taken up so far.

    A run of E epochs sees E of an image's V views, or all V. Those that no run before it saw are
    computed; where V is above E, they are taken to be drawn independently of one another.
    """

    _filled: dict[tuple, float] = field(default_factory=dict)

    def take(self, config: StudentConfig, cached: Cached) -> tuple[float, float]:
        """Let a run fill its cache: the epochs for which the teacher runs, and the bytes written.

        Args:
            config: its flags.
            cached: what it asks for.
        """
        split = (config.val_fraction, config.trial) if config.val_fraction else None
        where = (config.teacher_cache, config.path_t, config.dataset, config.data_dir, split)
        seen = min(config.epochs, cached.num_views)
        epochs = size = 0.0
        for part, view_bytes in cached.view_bytes.items():
            filled = self._filled.get((*where, part), 0.0)
            new = seen * (1 - min(1.0, filled / cached.num_views))
            self._filled[*where, part] = filled + new
            epochs, size = max(epochs, new), size + new * view_bytes
        return epochs, size

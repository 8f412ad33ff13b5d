"""Fill a cache before the runs that read it."""

import time

import numpy as np

from distillers.data.source import DataSource
from distillers.distillation.cache.teacher_cache import TeacherCache
from distillers.distributed.world import World
from distillers.progress import Progress

SHOW_EVERY = 20  # batches between two updates of the progress bar


def fill_cache(
    cache: TeacherCache, source: DataSource, num_views: int, batch_size: int, world: World
) -> None:
    """Run the teacher for all missing views, one view of all images after the other."""
    num_images = len(source.train_labels)
    loader = source.train_loader(
        batch_size,
        seed=0,
        drop_last=False,
        device=world.device,
        shard=world.shard,
        views=num_views,
        shuffle=False,
    )
    progress = Progress(num_views, len(loader), unit="view")
    try:
        for number in range(1, num_views + 1):
            start, seen = time.monotonic(), 0
            rows = np.arange(num_images) + (number - 1) * num_images
            missing = np.flatnonzero(~cache.present(rows))
            first = int(missing[0]) // (batch_size * world.size) if len(missing) else len(loader)
            figures = {"images_per_second": 0.0}
            for place, batch in enumerate(loader.epoch(number, first), start=first + 1):
                assert batch.view is not None
                cache.fill(batch.teacher_images, batch.view)
                seen += len(batch.labels)
                figures["images_per_second"] = seen / (time.monotonic() - start)
                if place % SHOW_EVERY == 0 and world.is_first:
                    progress.batch(number, place, figures)
            if world.is_first:
                progress.epoch(number, figures)
        cache.report_damage()
    finally:
        progress.close()

"""From the flags of a run to its cache: which views, where, and whether there is room."""

import shutil
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from distillers.config.data import NumViews
from distillers.config.sizes import num_bytes, show_bytes
from distillers.config.student import StudentConfig
from distillers.data.loaders.views import num_views_of
from distillers.data.source import DataSource
from distillers.distillation.cache.folder import CacheFolder, explain_disk_errors, resolve_cache_dir
from distillers.distillation.cache.key import Key, cache_key
from distillers.distillation.cache.teacher_cache import (
    CachedTensor,
    TeacherCache,
    cached_tensors,
    unique_tensors,
)
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from distillers.errors import InputError

BLOCK = 4096  # bytes that file systems give out at once: a small row alone takes as many
AUTO, FOLDER = "auto", "teacher_cache"  # the flag's value, and what it makes in SAVE_DIR


class CacheRequest(NamedTuple):
    """A cache that a run asks for.

    Attributes:
        where: its folder.
        key: what it is of.
        num_images: N.
        num_views: V of each.
    """

    where: Path
    key: Key
    num_images: int
    num_views: int


def cache_request(
    config: StudentConfig, teacher: nn.Module, name: str, source: DataSource, views: NumViews
) -> CacheRequest:
    """The cache that the flags ask for.

    Args:
        config: the flags.
        teacher: as it gets the images of `source`, before anything is folded or compiled.
        name: of its architecture.
        source: the images that are trained on.
        views: how many each has.

    Raises:
        InputError: when the folder holds something else.
    """
    given = config.teacher_cache or AUTO
    above = Path(config.save_dir) / FOLDER if given == AUTO else Path(given).expanduser()
    key = cache_key(teacher, name, source)
    num_images = len(source.train_labels)
    return CacheRequest(resolve_cache_dir(above, key), key, num_images, num_views_of(views, source))


def open_cache(
    config: StudentConfig,
    asked: CacheRequest,
    task: Distillation,
    sample: Tensor,
    num_fills: int,
    world: World,
) -> TeacherCache | None:
    """The cache of a run, or None where it would be larger than the budget; both are printed.

    Args:
        config: the flags.
        asked: of `wanted`.
        task: whose losses read the teacher.
        sample: (n, c, h, w), a few images as the networks see them.
        num_fills: views of an image that the run may compute, at the most.
        world: the processes that run together; all must ask.

    Raises:
        InputError: when there is no room on the disk.
    """
    reads = cached_tensors(task, sample)
    parts = unique_tensors(reads)
    if not parts:
        world.say("teacher cache: no loss asks the teacher for anything, so there is none")
        return None
    row = sum(part.row_bytes for part in parts)
    whole = row * asked.num_images * asked.num_views
    what = f"{', '.join(part.name for part in parts)} of {asked.num_images:,} images"
    budget = num_bytes(config.cache_budget, "cache_budget")
    if whole > budget:
        fitting = budget // (row * asked.num_images)
        world.say(
            f"teacher cache: {what} x {asked.num_views} views may take {show_bytes(whole)}, more "
            f"than --cache_budget {config.cache_budget}, so the teacher runs in every step"
            + (f"; --views {fitting} would fit" if fitting else "")
        )
        return None
    folder = CacheFolder(asked.where, asked.key)
    cache = TeacherCache(folder, task, reads, asked.num_images * asked.num_views)
    filled = world.run_on_rank0(cache.num_filled) / (asked.num_images * asked.num_views)
    world.say(
        f"teacher cache: {what} x {asked.num_views} views, {100 * filled:.3g} % there, "
        f"{show_bytes(whole)} when full, in {asked.where}"
    )
    num_fills = min(num_fills, asked.num_views)
    world.run_on_rank0(lambda: _refuse_no_room(asked, parts, cache, num_fills))
    return cache


def _refuse_no_room(
    asked: CacheRequest, parts: list[CachedTensor], cache: TeacherCache, num_fills: int
) -> None:
    """Refuse what the disk cannot take, before any work is done."""
    whole = sum(part.row_bytes for part in parts) * asked.num_views
    scattered = sum(part.row_bytes + BLOCK for part in parts) * num_fills
    need = asked.num_images * min(whole, scattered) - cache.disk_bytes
    with explain_disk_errors(asked.where):
        free = shutil.disk_usage(asked.where).free
    if need > free:
        raise InputError(
            f"the teacher cache {asked.where} may still grow by {show_bytes(need)}, and "
            f"{show_bytes(free)} are free there. Make room, take another folder with "
            "--teacher_cache, or fewer --views."
        )

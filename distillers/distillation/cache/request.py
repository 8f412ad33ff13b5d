"""Open the cache that the flags of a run ask for, if it fits the budget and the disk."""

import shutil
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from distillers.config.data import NumViews
from distillers.config.sizes import format_bytes, num_bytes, pluralize
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

BLOCK = 4096  # bytes; a small row alone takes a whole block of the file system
AUTO, FOLDER = "auto", "teacher_cache"  # value of the flag, and the folder in SAVE_DIR


class CacheRequest(NamedTuple):
    """The folder and the key of the cache that a run asks for, and its size in images and views."""

    path: Path
    key: Key
    num_images: int
    num_views: int


def cache_folder(config: StudentConfig) -> Path:
    """Return the folder of all caches, that of --teacher_cache or of its value auto."""
    given = config.teacher_cache or AUTO
    return Path(config.save_dir) / FOLDER if given == AUTO else Path(given).expanduser()


def cache_request(
    config: StudentConfig, teacher: nn.Module, name: str, source: DataSource, views: NumViews
) -> CacheRequest:
    """Return the cache that the flags ask for; see `cache_key` for teacher, name and source.

    Raises:
        InputError: if the folder holds another cache.
    """
    above = cache_folder(config)
    key = cache_key(teacher, name, source)
    num_images = len(source.train_labels)
    return CacheRequest(resolve_cache_dir(above, key), key, num_images, num_views_of(views, source))


def open_cache(
    config: StudentConfig,
    request: CacheRequest,
    task: Distillation,
    number: int,
    sample: Tensor,
    num_fills: int,
    world: World,
) -> TeacherCache | None:
    """Open the cache of teacher `number` and print its state; None if it exceeds the budget.

    A collective call.

    Raises:
        InputError: if the disk has not enough free space.
    """
    reads = cached_tensors(task, sample, number)
    parts = unique_tensors(reads)
    if not parts:
        world.say("teacher cache: not used, since no loss reads the teacher")
        return None
    row = sum(part.row_bytes for part in parts)
    full_size = row * request.num_images * request.num_views
    what = f"{', '.join(part.name for part in parts)} of {request.num_images:,} images"
    views = pluralize(request.num_views, "view")
    budget = num_bytes(config.cache_budget, "cache_budget")
    if full_size > budget:
        fitting = budget // (row * request.num_images)
        size = format_bytes(full_size)
        world.say(
            f"teacher cache: {what} x {views} may take {size}, "
            f"more than --cache_budget {config.cache_budget}, so the teacher runs in every step"
            + (f"; --views {fitting} would fit" if fitting else "")
        )
        return None
    folder = CacheFolder(request.path, request.key)
    cache = TeacherCache(folder, task, reads, request.num_images * request.num_views, number)
    filled = world.run_on_rank0(cache.num_filled) / (request.num_images * request.num_views)
    world.say(
        f"teacher cache: {what} x {views}, {100 * filled:.3g} % filled, "
        f"{format_bytes(full_size)} when full, in {request.path}"
    )
    num_fills = min(num_fills, request.num_views)
    world.run_on_rank0(lambda: _check_free_space(request, parts, cache, num_fills))
    return cache


def _check_free_space(
    request: CacheRequest, parts: list[CachedTensor], cache: TeacherCache, num_fills: int
) -> None:
    """Check that the disk has room for what the run may write."""
    full_size = sum(part.row_bytes for part in parts) * request.num_views
    scattered = sum(part.row_bytes + BLOCK for part in parts) * num_fills
    need = request.num_images * min(full_size, scattered) - cache.disk_bytes
    with explain_disk_errors(request.path):
        free = shutil.disk_usage(request.path).free
    if need > free:
        raise InputError(
            f"the teacher cache {request.path} may still grow by {format_bytes(need)}, and "
            f"{format_bytes(free)} are free there. Make room, take another folder with "
            "--teacher_cache, or fewer --views."
        )

"""A tiny data set, networks and processes that the tests of caches share."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillers.config.data import NumViews
from distillers.data import Loader
from distillers.data.datasets.images import ImageSet
from distillers.distillation.build import distil
from distillers.distillation.cache.fill import fill_cache
from distillers.distillation.cache.folder import CacheFolder, resolve_cache_dir
from distillers.distillation.cache.key import cache_key
from distillers.distillation.cache.request import CacheRequest
from distillers.distillation.cache.teacher_cache import TeacherCache, cached_tensors
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from tests.nets import Declared

CPU = torch.device("cpu")
ALL = {"tests.distillation.test_distillation:Everything": 1.0}
SAMPLE = torch.zeros(2, 3, 8, 8)


def image_set(num: int = 30, flip: bool = True, seed: int = 0) -> ImageSet:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, 3, 8, 8), generator=rng).to(torch.uint8)
    labels = torch.arange(num) % 5
    return ImageSet(
        "noise", images, labels, images[:4], labels[:4], (0.5,) * 3, (0.2,) * 3, tuple("abcde"),
        flip,
    )  # fmt: skip


class Slow(Declared):
    """Takes its time, and says something of its own: adds `shift` to the images."""

    def __init__(self, seconds: float = 0.0, shift: float = 0.0) -> None:
        super().__init__(6)
        self.seconds, self.shift = seconds, shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().forward(x + self.shift)


def task_of(teacher: nn.Module, weights: dict[str, float] | None = None) -> Distillation:
    torch.manual_seed(1)
    return distil(Declared(3), teacher, weights or ALL, images=SAMPLE)


def teacher_of(seconds: float = 0.0, shift: float = 0.0) -> Slow:
    torch.manual_seed(0)
    return Slow(seconds, shift).eval()


def wanted(where: Path, source: ImageSet, views: int = 3) -> CacheRequest:
    key = cache_key(teacher_of(), "slow", source)
    return CacheRequest(resolve_cache_dir(where, key), key, len(source.train_labels), views)


def open_at(asked: CacheRequest, task: Distillation) -> TeacherCache:
    reads = cached_tensors(task, SAMPLE)
    folder = CacheFolder(asked.path, asked.key)
    return TeacherCache(folder, task, reads, asked.num_images * asked.num_views)


def build(
    where: Path, seconds: float = 0.0, shift: float = 0.0, rank: int = 0, size: int = 1
) -> int:
    """Fill a cache of three views, or a part of it; also the work of a process of its own."""
    torch.set_num_threads(1)
    source = image_set()
    asked = wanted(where, source)
    cache = open_at(asked, task_of(teacher_of(seconds, shift)))
    fill_cache(cache, source, 3, 4, World(rank, size))
    return cache.num_computed


def loader_of(source: ImageSet, views: NumViews = 3, **options: Any) -> Loader:
    return source.train_loader(7, seed=1, drop_last=False, device=CPU, views=views, **options)


def contents(where: Path) -> dict[str, bytes]:
    """All that the one cache in a folder holds."""
    (folder,) = where.iterdir()
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".f16", ".rows")}

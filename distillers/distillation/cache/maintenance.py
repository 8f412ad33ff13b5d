"""List, verify and delete caches."""

import os
import shutil
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from distillers.config.sizes import format_bytes
from distillers.data.datasets.listing import first_few
from distillers.distillation.cache.card import CARD, read_card
from distillers.distillation.cache.folder import LOCK, USED, fcntl
from distillers.distillation.cache.part import RECORD, Part
from distillers.errors import InputError

DAY = 24 * 3600
DELETED = ".deleted-"  # prefix of a cache that is being deleted


@dataclass(frozen=True)
class CacheInfo:
    """A cache on the disk."""

    path: Path
    card: dict[str, Any]
    num_bytes: int
    days_old: float
    days_unused: float

    @property
    def title(self) -> str:
        """Its folder, teacher and data."""
        key = self.card["key"]
        return f"{self.path}: {key['teacher']['model']} on {key['data']['name']}"

    def parts(self, read_only: bool = True) -> list[Part]:
        """Open its parts, with all rows that exist.

        Raises:
            InputError: if a file is missing.
        """
        try:
            return [
                Part(self.path, name, tuple(identity["shape"]), _rows(self.path, name), read_only)
                for name, identity in self.card["parts"].items()
            ]
        except OSError as error:
            raise InputError(f"{self.path} is incomplete: {error}. Delete it.") from error


def find_caches(where: Path) -> list[CacheInfo]:
    """Return the caches in a folder in alphabetical order, or the folder itself if it is a cache.

    Raises:
        InputError: if the folder does not exist, or a card cannot be read.
    """
    if not where.is_dir():
        raise InputError(f"there is no folder {where}; name the folder of the caches.")
    inside = sorted(path for path in where.iterdir() if not path.name.startswith("."))
    paths = [path for path in (where, *inside) if (path / CARD).is_file()]
    return [_read_info(path) for path in paths]


def info(found: CacheInfo) -> list[str]:
    """Return a few lines that describe a cache."""
    data = found.card["key"]["data"]
    lines = [
        found.title,
        f"  {data['images']:,} images, {data['augmentation']}",
        f"  {format_bytes(found.num_bytes)} on the disk, created {found.card['made']}, last used "
        f"{found.days_unused:.1f} days ago",
    ]
    for part in found.parts():
        views = part.num_filled() / data["images"]
        shape = " x ".join(map(str, part.shape))
        lines.append(f"  {part.name} ({shape}): {views:.4g} views an image")
    return lines


def verify(found: CacheInfo, repair: bool) -> tuple[list[str], int]:
    """Compare every row of a cache with its checksum; empty the damaged ones if `repair`.

    Returns:
        a line for each part, and the number of damaged rows.
    """
    lines, count = [found.title], 0
    for part in found.parts(read_only=not repair):
        num_filled, damaged = part.check()
        damaged = _still_damaged(found.path, part, damaged, repair)
        count += len(damaged)
        state = "all valid"
        if damaged:
            state = f"{len(damaged):,} DAMAGED ({first_few(list(map(str, damaged)))})"
            state += ", emptied" if repair else ""
        lines.append(f"  {part.name}: {num_filled:,} rows, {state}")
    return lines, count


@dataclass(frozen=True)
class PruneRules:
    """Which caches to delete; a rule that is None deletes nothing.

    Attributes:
        unused_for: delete caches that were not opened for more than this number of days.
        older_than: delete caches that were created more than this number of days ago.
        keep: then delete the least recently used ones until at most this number of bytes is left.
    """

    unused_for: float | None = None
    older_than: float | None = None
    keep: int | None = None

    def why(self, found: CacheInfo) -> str | None:
        """Return why the age of a cache requires its deletion, None if it does not."""
        if self.unused_for is not None and found.days_unused > self.unused_for:
            return f"unused for {found.days_unused:.1f} days"
        if self.older_than is not None and found.days_old > self.older_than:
            return f"created {found.days_old:.0f} days ago"
        return None


def prune(caches: list[CacheInfo], rules: PruneRules, dry_run: bool) -> list[str]:
    """Delete caches that no process uses, and return a line for each that is deleted or kept."""
    reasons = {found.path: rules.why(found) for found in caches}
    left = sum(found.num_bytes for found in caches if reasons[found.path] is None)
    for found in sorted(caches, key=lambda each: -each.days_unused):
        if rules.keep is not None and left > rules.keep and reasons[found.path] is None:
            reasons[found.path] = f"the caches take more than {format_bytes(rules.keep)}"
            left -= found.num_bytes
    return [_pruned(found, reasons[found.path], dry_run) for found in caches]


def finish_deletions(where: Path) -> None:
    """Delete the rest of caches whose deletion was interrupted."""
    for path in where.glob(f"{DELETED}*"):
        shutil.rmtree(path)


def _pruned(found: CacheInfo, why: str | None, dry_run: bool) -> str:
    size = format_bytes(found.num_bytes)
    if why is None:
        return f"kept {found.path}, {size}"
    used = os.open(found.path / USED, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if dry_run:
            return f"would delete {found.path}, {size}: {why}"
        renamed = found.path.with_name(DELETED + found.path.name)
        found.path.rename(renamed)  # so that a partly deleted cache is never used
        shutil.rmtree(renamed)
    except BlockingIOError:
        return f"kept {found.path}, {size}: in use"
    finally:
        os.close(used)
    return f"deleted {found.path}, {size}: {why}"


def _read_info(path: Path) -> CacheInfo:
    card = read_card(path)
    blocks = sum(file.stat().st_blocks for file in path.iterdir())
    used = path / USED
    last = (used if used.exists() else path / CARD).stat().st_mtime
    made = (date.today() - date.fromisoformat(card["made"])).days
    return CacheInfo(path, card, 512 * blocks, float(made), (time.time() - last) / DAY)


def _rows(path: Path, name: str) -> int:
    """Return the number of rows of a part, the last one possibly incomplete."""
    return -(-(path / f"{name}.rows").stat().st_size // RECORD.itemsize)


def _still_damaged(path: Path, part: Part, rows: list[int], repair: bool) -> list[int]:
    """Return the rows that are damaged while the lock is held, and empty them if asked to."""
    if not rows:
        return []
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        numbers = np.array(rows)
        damaged = numbers[~part.present(numbers)].tolist()
        if repair:
            part.empty(damaged)
        return damaged
    finally:
        os.close(lock)

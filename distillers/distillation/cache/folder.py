"""Folder of a cache: a card with its identity, its parts, and a lock for those that fill it."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from distillers.distillation.cache.card import CARD, read_card, write_card
from distillers.distillation.cache.key import FORMAT, Key, differences, digest
from distillers.distillation.cache.part import Part
from distillers.errors import InputError
from distillers.files import DISK_FULL, file_name

try:
    import fcntl
except ImportError as error:  # Windows
    raise InputError("a teacher cache needs Linux or macOS; omit --teacher_cache.") from error

LOCK, USED = "lock", "used"


class CacheFolder:
    """An open cache, created if it does not exist; it is in use while this object lives.

    Raises:
        InputError: if the folder holds another cache, or one that cannot be read.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self.path = path
        with explain_disk_errors(path):
            weakref.finalize(self, os.close, _mark_used(path))
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            weakref.finalize(self, os.close, self._lock)
            with self.locked():
                if not (path / CARD).exists():
                    made = date.today().isoformat()
                    write_card(self.path, {"format": FORMAT, "made": made, "key": key, "parts": {}})
        check_same_key(path, key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the cache, so that no other process writes to it."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def part(self, name: str, identity: dict[str, Any], num_rows: int) -> Part:
        """Open or create the part of a feature; its `identity`, module and shape, is in the card.

        Raises:
            InputError: if there is a part of this name with another identity.
        """
        with explain_disk_errors(self.path):
            with self.locked():
                card = read_card(self.path)
                there = card["parts"].setdefault(name, identity)
                if there != identity:
                    raise InputError(
                        f"{self.path} has {name} with {there}, but this run needs {identity}; "
                        "delete the folder, or choose another with --teacher_cache."
                    )
                write_card(self.path, card)
            return Part(self.path, name, tuple(identity["shape"]), num_rows)


def resolve_cache_dir(where: Path, key: Key) -> Path:
    """Return the folder of the cache with a key: `where` itself if it is a cache, else one in it.

    Raises:
        InputError: if `where` is a file or another cache.
    """
    if where.exists() and not where.is_dir():
        raise InputError(f"--teacher_cache {where} is a file; it must be a folder, or auto.")
    if (where / CARD).exists():
        check_same_key(where, key)
        return where
    named = f"{key['teacher']['model']}-{key['data']['name']}-{digest(key)}"
    return where / file_name(named)


def check_same_key(path: Path, key: Key) -> None:
    """Check that the cache in a folder has a key.

    Raises:
        InputError: if it has another; the message names the differing entries.
    """
    found = differences(read_card(path)["key"], key)
    if found:
        raise InputError(
            f"{path} is the cache of something else: {', '.join(found)} differ. Set "
            "--teacher_cache to the folder above it, in which each cache has its own, or to auto."
        )


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Convert an OSError of the cache at `path` to an InputError with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InputError(
                f"the disk is full: {error.strerror}. The contents of the teacher cache {path} are "
                "valid. Make room and continue with --resume, or omit --teacher_cache."
            ) from error
        raise InputError(f"cannot use the teacher cache {path}: {error}") from error


def _mark_used(path: Path) -> int:
    """Open the file that marks the cache as in use, by a shared lock, and when it was last used."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            used = os.open(path / USED, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the cache was pruned at this moment
            continue
        fcntl.flock(used, fcntl.LOCK_SH)
        os.utime(used)
        try:
            if os.path.samestat(os.fstat(used), os.stat(path / USED)):
                return used
        except FileNotFoundError:
            pass
        os.close(used)

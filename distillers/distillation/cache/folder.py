"""A cache on the disk: a card that says of what, and its parts; one lock for all that fill it."""

import errno
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from distillers.distillation.cache.key import FORMAT, Key, differences, digest
from distillers.distillation.cache.part import Part
from distillers.errors import InputError
from distillers.files import file_name, write_atomically

try:
    import fcntl
except ImportError as error:  # Windows
    raise InputError("a teacher cache needs Linux or macOS; leave --teacher_cache out.") from error

CARD, LOCK, USED = "cache.json", "lock", "used"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CacheFolder:
    """One cache, made where it is not there yet; it is in use for as long as this object lives.

    Args:
        path: its folder.
        key: what it must be a cache of.

    Raises:
        InputError: when there is a cache of something else, or one that cannot be read.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self.path = path
        with explain_disk_errors(path):
            weakref.finalize(self, os.close, _held(path))
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            weakref.finalize(self, os.close, self._lock)
            with self.locked():
                if not (path / CARD).exists():
                    made = date.today().isoformat()
                    self._write({"format": FORMAT, "made": made, "key": key, "parts": {}})
        check_same_key(path, key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process changes the cache."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def part(self, name: str, identity: dict[str, Any], num_rows: int) -> Part:
        """One tensor of the teacher for every view.

        Args:
            name: of its files.
            identity: where the teacher was read, with the "shape" of a row, for the card.
            num_rows: that this run may ask for.

        Raises:
            InputError: when there is a part of this name that was read elsewhere.
        """
        with explain_disk_errors(self.path):
            with self.locked():
                card = read_card(self.path)
                there = card["parts"].setdefault(name, identity)
                if there != identity:
                    raise InputError(
                        f"{self.path} has {name} as {there}, and it would now be {identity}; "
                        "delete the folder, or choose another with --teacher_cache."
                    )
                self._write(card)
            return Part(self.path, name, tuple(identity["shape"]), num_rows)

    def _write(self, card: dict[str, Any]) -> None:
        write_atomically(self.path / CARD, (json.dumps(card, indent=2) + "\n").encode())


def resolve_cache_dir(where: Path, key: Key) -> Path:
    """The folder of the cache with a key: `where` itself if that is one, else a folder in it.

    Raises:
        InputError: when `where` is a file, or the cache of something else.
    """
    if where.exists() and not where.is_dir():
        raise InputError(f"--teacher_cache {where} is a file; it must be a folder, or auto.")
    if (where / CARD).exists():
        check_same_key(where, key)
        return where
    named = f"{key['teacher']['model']}-{key['data']['name']}-{digest(key)}"
    return where / file_name(named)


def check_same_key(path: Path, key: Key) -> None:
    """Refuse a cache of anything else.

    Raises:
        InputError: naming what differs.
    """
    found = differences(read_card(path)["key"], key)
    if found:
        raise InputError(
            f"{path} is the cache of something else: {', '.join(found)} differ. Give "
            "--teacher_cache the folder above it, where each has a folder of its own, or auto."
        )


def read_card(path: Path) -> dict[str, Any]:
    """What a cache is of, and its parts.

    Raises:
        InputError: when it cannot be read, or was written by a newer version.
    """
    try:
        card = json.loads((path / CARD).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path / CARD} cannot be read: {error}. Delete {path}.") from error
    if not isinstance(card, dict) or not {"format", "key", "parts"} <= set(card):
        raise InputError(f"{path / CARD} is not the card of a teacher cache.")
    if card["format"] > FORMAT:
        raise InputError(f"{path} was written by a newer version of distillers; update to read it.")
    return card


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Inside, a full disk and a folder that cannot be written are told in a line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise InputError(
                f"the disk is full: {error.strerror}. What the teacher cache {path} holds is whole "
                "and stays usable. Make room and go on with --resume, or leave --teacher_cache out."
            ) from error
        raise InputError(f"cannot use the teacher cache {path}: {error}") from error


def _held(path: Path) -> int:
    """An open file that says, while it is open, that the cache is in use; and when it was last."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            used = os.open(path / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # it was pruned this very moment
            continue
        fcntl.flock(used, fcntl.LOCK_SH)
        os.utime(used)
        try:
            if os.path.samestat(os.fstat(used), os.stat(path / USED)):
                return used
        except FileNotFoundError:
            pass
        os.close(used)

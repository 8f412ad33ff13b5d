"""The state of the runs of a sweep, kept in files: done, failed, or in progress.

A run is done when it has written `parameters.json`, its last file. All else is in `SAVE_DIR/sweep`
under the name of the run's folder: its output, the lock of the process that executes it, and its
failure. The system releases a lock when its process ends, for whatever reason.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from distillers.errors import InputError
from distillers.files import write_atomically

DONE = "parameters.json"
START_MARKER = "=== started"  # first words of the line that each start adds to the log of a run
TAIL_LINES = 6  # of the log of a failed run
LOCKED_STATUS = 69  # exit status (EX_UNAVAILABLE) of a job whose run another process executes


class Ledger:
    """Files of a sweep."""

    def __init__(self, save_dir: str | Path) -> None:
        self.save_dir = Path(save_dir)
        self.folder = self.save_dir / "sweep"

    def create(self) -> None:
        """Create the folders."""
        try:
            for name in ("logs", "locks", "failed"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write into {self.folder}: {error}.") from error

    def log(self, run_dir: Path) -> Path:
        """Return the file of a run's output."""
        return self.folder / "logs" / f"{run_dir.name}.log"

    def lock(self, run_dir: Path) -> Path:
        """Return the file that the process of a run locks."""
        return self.folder / "locks" / run_dir.name

    def is_done(self, run_dir: Path) -> bool:
        """Return whether a run is complete."""
        return (run_dir / DONE).is_file()

    def is_locked(self, run_dir: Path) -> bool:
        """Return whether a process, of this sweep or another, executes a run."""
        with try_lock(self.lock(run_dir)) as acquired:
            return not acquired

    def has_failed(self, run_dir: Path) -> bool:
        """Return whether a run failed when it was last executed."""
        return self._failure(run_dir).is_file()

    def record_failure(self, run_dir: Path, status: int) -> None:
        """Record that a run failed, with its exit status (negative: the signal that ended it)."""
        path, content = self._failure(run_dir), json.dumps({"status": status, "time": _now()})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.encode())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}; the sweep was stopped.") from error

    def clear_failure(self, run_dir: Path) -> None:
        """Delete the record of a failure, so that the run is started again."""
        self._failure(run_dir).unlink(missing_ok=True)

    def tail(self, run_dir: Path) -> list[str]:
        """Return the last lines that a run printed since its last start."""
        path = self.log(run_dir)
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
        starts = [number for number, line in enumerate(lines) if line.startswith(START_MARKER)]
        printed = lines[starts[-1] + 1 :] if starts else lines
        return [line for line in printed if line.strip()][-TAIL_LINES:]

    def _failure(self, run_dir: Path) -> Path:
        return self.folder / "failed" / run_dir.name


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Yield whether this process acquired the lock file, which it then holds in the block.

    Raises:
        InputError: if the file system does not support locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise InputError(
            f"cannot lock {path} ({error}); a sweep needs a file system with locks, so that no run "
            "is executed twice at once. Choose another --save_dir."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def start_line(command: str) -> str:
    """Return the line that the log of a run gets at each start."""
    return f"{START_MARKER} {_now()} on {socket.gethostname()}, process {os.getpid()}: {command}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

"""What is known of the runs of a sweep, all of it on the disk: done, failed, in somebody's hands.

A run is done when it has written `parameters.json`, which it does last and in one piece. All else
lies in `SAVE_DIR/sweep`, by the name of the run's folder: what it printed, the lock that whoever
runs it holds, and, where it failed, how. A lock is freed by the system when its holder ends,
however that ends.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from distillers.errors import InputError

DONE = "parameters.json"
STARTED = "=== started"  # begins the line that each start of a run writes into its log
TAIL = 6  # lines of a failed run's log that are shown

BUSY = 69  # exit status (EX_UNAVAILABLE) of a job whose run is held by another process


class Ledger:
    """The places of a sweep's files.

    Args:
        save_dir: of the sweep.
    """

    def __init__(self, save_dir: str | Path) -> None:
        self.folder = Path(save_dir) / "sweep"

    def make(self) -> None:
        """Make its folders.

        Raises:
            InputError: where they cannot be.
        """
        try:
            for name in ("logs", "locks", "failed"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write into {self.folder}: {error}.") from error

    def log(self, run: Path) -> Path:
        """What the run in a folder prints."""
        return self.folder / "logs" / f"{run.name}.log"

    def lock(self, run: Path) -> Path:
        """What whoever runs it holds."""
        return self.folder / "locks" / run.name

    def is_done(self, run: Path) -> bool:
        """Whether it has come to its end."""
        return (run / DONE).is_file()

    def is_held(self, run: Path) -> bool:
        """Whether some process, of this sweep or another, is running it."""
        with hold(self.lock(run)) as mine:
            return not mine

    def fail(self, run: Path, status: int) -> None:
        """Note that it failed.

        Args:
            run: its folder.
            status: of its process; a negative one is the signal that ended it.
        """
        self._failure(run).parent.mkdir(parents=True, exist_ok=True)
        self._failure(run).write_text(json.dumps({"status": status, "time": _now()}) + "\n")

    def has_failed(self, run: Path) -> bool:
        """Whether it failed when it last ran."""
        return self._failure(run).is_file()

    def forgive(self, run: Path) -> None:
        """Forget that it failed."""
        self._failure(run).unlink(missing_ok=True)

    def starts(self, run: Path) -> int:
        """How often it was started."""
        return sum(line.startswith(STARTED) for line in self._lines(run))

    def tail(self, run: Path) -> list[str]:
        """The last lines that it printed since it was last started."""
        lines = self._lines(run)
        last = max((n for n, line in enumerate(lines) if line.startswith(STARTED)), default=-1)
        return [line for line in lines[last + 1 :] if line.strip()][-TAIL:]

    def _lines(self, run: Path) -> list[str]:
        path = self.log(run)
        return path.read_text(errors="replace").splitlines() if path.is_file() else []

    def _failure(self, run: Path) -> Path:
        return self.folder / "failed" / run.name


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Inside, this process holds the lock at `path` if the value is true; else another does.

    Raises:
        InputError: where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the two ways of saying that it is held
            yield False
            return
        except OSError as error:
            raise InputError(
                f"cannot lock {path} ({error}); a sweep needs a file system with locks, so that "
                "no run is run twice at once. Choose another --save_dir."
            ) from error
        yield True


def started_line(label: str) -> str:
    """What a run's log says at each start."""
    return f"{STARTED} {_now()} on {socket.gethostname()}, process {os.getpid()}: {label}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")

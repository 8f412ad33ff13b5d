"""A run as a process: what every engine starts, on whatever machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distillers.sweep.ledger import DONE, Ledger


@dataclass(frozen=True)
class Job:
    """All that it takes to start a run; plain types, for another machine to read.

    Attributes:
        label: what a person calls it.
        command: "teacher" or "student".
        words: its flags, without the device.
        folder: of the run.
        save_dir: of the sweep.
        cwd: where to run it, for relative paths.
        threads: of its computation on the CPU.
    """

    label: str
    command: str
    words: tuple[str, ...]
    folder: str
    save_dir: str
    cwd: str
    threads: int

    @property
    def log(self) -> Path:
        """Where its output goes."""
        path = self._ledger.log(Path(self.folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, gpu: str) -> "subprocess.Popen[bytes]":
        """Start it.

        Args:
            gpu: the number of its GPU as this process counts them, or "cpu".
        """
        folder = Path(self.cwd) / self.folder
        run = [self.command, *self.words, "--resume", "--gpu_id", gpu]
        where = [str(os.getpid()), str(self._ledger.lock(folder)), str(folder / DONE)]
        with self.log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "distillers.cli.run_job", *where, *run],
                cwd=self.cwd,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the sweep, which tells its runs
            )

    def note(self, text: str) -> None:
        """Add to its log what its own process cannot say any more."""
        with self.log.open("a") as file:
            file.write(f"{text}\n")

    @property
    def _ledger(self) -> Ledger:
        return Ledger(Path(self.cwd) / self.save_dir)


@contextmanager
def running(job: Job, gpu: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Inside, the job runs; on the way out by an error it is told to stop, and waited for."""
    process = job.start(gpu)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()

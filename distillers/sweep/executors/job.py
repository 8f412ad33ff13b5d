"""One run as a process, which every executor starts, on whatever machine."""

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
    """A run to be started, in plain types, so that it can be sent to another machine.

    Attributes:
        args: "teacher" or "student" and its flags, without the device.
        folder: folder of the run.
        save_dir: folder of the sweep.
        cwd: working directory.
        threads: CPU threads.
    """

    args: tuple[str, ...]
    folder: str
    save_dir: str
    cwd: str
    threads: int

    @property
    def log(self) -> Path:
        """The file of its output."""
        path = self._ledger.log(Path(self.folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def _ledger(self) -> Ledger:
        return Ledger(Path(self.cwd) / self.save_dir)

    def start(self, gpu: str) -> "subprocess.Popen[bytes]":
        """Start the process on a GPU, by its index as seen by this process, or on "cpu"."""
        folder = Path(self.cwd) / self.folder
        paths = [str(self._ledger.lock(folder)), str(folder / DONE)]
        args = [str(os.getpid()), *paths, *self.args, "--resume", "--gpu_id", gpu]
        with self.log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "distillers.cli.run_job", *args],
                cwd=self.cwd,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the sweep only, which stops its runs
            )

    @contextmanager
    def running(self, gpu: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start the process; terminate it and wait for it if the block raises."""
        process = self.start(gpu)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def append_to_log(self, text: str) -> None:
        """Add a line that the process itself cannot print any more."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

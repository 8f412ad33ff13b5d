"""The pool of processes on this machine, which is what a sweep runs on by default."""

import os
import subprocess
import time

import torch

from distillers.errors import InputError
from distillers.sweep.engine import Slots
from distillers.sweep.job import Job

GRACE = 60.0  # seconds that a run has to save what it can


class LocalPool:
    """Processes with a device each; they end when this one does, however it ends.

    Args:
        slots: the devices.
    """

    def __init__(self, slots: Slots) -> None:
        self._free = list(slots.gpus)
        self._running: list[tuple[Job, str, subprocess.Popen[bytes]]] = []

    def room(self) -> bool:
        """Whether another run may be started now."""
        return bool(self._free)

    def start(self, job: Job) -> None:
        """Start a run on the first device that is free."""
        gpu = self._free.pop(0)
        self._running.append((job, gpu, job.start(gpu)))

    def ended(self) -> list[tuple[Job, int]]:
        """The runs that ended since the last call, with their exit status."""
        over = [(entry, entry[2].poll()) for entry in self._running]
        ended = [(entry, status) for entry, status in over if status is not None]
        for entry, _ in ended:
            self._running.remove(entry)
            self._free.append(entry[1])
        return [(job, status) for (job, _, _), status in ended]

    def stop(self) -> None:
        """Let every run save what it can, and end."""
        for _, _, process in self._running:
            process.terminate()
        deadline = time.monotonic() + GRACE
        for _, _, process in self._running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def gpus_of(gpu_id: str | None) -> tuple[str, ...]:
    """The GPUs of this machine that --gpu_id names: "0,2", "cpu" for none, or all.

    Raises:
        InputError: for one that is not there.
    """
    there = [str(n) for n in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    if gpu_id in (None, "cpu"):
        return tuple(there) if gpu_id is None else ()
    asked = tuple(part.strip() for part in gpu_id.split(","))
    for gpu in asked:
        if gpu not in there:
            known = f"there are {', '.join(there)}" if there else "there is no usable GPU here"
            raise InputError(f"--gpu_id names GPU {gpu!r}, but {known}; or say cpu.")
    return asked


def cores() -> int:
    """The cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

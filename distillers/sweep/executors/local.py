"""Runs as processes on this machine; the default."""

import subprocess
import time
from dataclasses import dataclass

import torch
from typing_extensions import override

from distillers.distributed.rendezvous import device_of
from distillers.errors import InputError
from distillers.sweep.executors import Executor
from distillers.sweep.executors.job import Job

GRACE_SECONDS = 60.0  # time for a run to save its state


@dataclass(frozen=True)
class Slots:
    """Places for concurrent runs on one machine, by the index of a GPU or "cpu"."""

    gpus: tuple[str, ...]
    threads: int


class LocalExecutor(Executor[tuple[str, "subprocess.Popen[bytes]"]]):
    """Processes with one device each; they are terminated when this process ends."""

    def __init__(self, slots: Slots) -> None:
        super().__init__(slots.threads, len(slots.gpus))
        self._free = list(slots.gpus)

    @override
    def _start(self, job: Job) -> tuple[str, "subprocess.Popen[bytes]"]:
        gpu = self._free[0]
        process = job.start(gpu)
        self._free.remove(gpu)
        return gpu, process

    @override
    def _finished(self) -> list[tuple[Job, int]]:
        finished = []
        for job, (gpu, process) in self._running.items():
            status = process.poll()
            if status is not None:
                finished.append((job, status))
                self._free.append(gpu)
        return finished

    @override
    def shutdown(self) -> None:
        processes = [process for _, process in self._running.values()]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def divide_machine(
    gpus: tuple[str, ...], cores: int, per_gpu: int, jobs: int | None, threads: int | None
) -> Slots:
    """Divide a machine among concurrent runs.

    Args:
        gpus: indices of the GPUs; none for the CPU.
        cores: number of usable CPU cores.
        per_gpu: number of runs that share a GPU.
        jobs: number of concurrent runs; by default as many as the GPUs or cores allow.
        threads: CPU threads of each run; by default the cores divided by the runs, and 1 on a CPU
            if `jobs` is not given either.
    """
    if not gpus:
        count = jobs or max(1, cores // (threads or 1))
        return Slots(("cpu",) * count, threads or max(1, cores // count))
    places = gpus * per_gpu
    if jobs is not None and jobs > len(places):
        raise InputError(
            f"--jobs is {jobs}, but {len(gpus)} GPUs with --per_gpu {per_gpu} take {len(places)} "
            "runs; raise --per_gpu."
        )
    places = places[:jobs]
    return Slots(places, threads or max(1, cores // len(places)))


def selected_gpus(gpu_id: str | None) -> tuple[str, ...]:
    """Return the GPUs of --gpu_id: "0,2", "cpu" for none, or by default all."""
    if gpu_id is None:
        return tuple(map(str, range(torch.cuda.device_count())))
    gpus = () if gpu_id == "cpu" else tuple(part.strip() for part in gpu_id.split(","))
    for gpu in gpus:
        device_of((gpu,))  # raises if it does not exist
    return gpus

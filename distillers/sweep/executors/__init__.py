"""Executors: where the runs of a sweep are executed."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from distillers.sweep.executors.job import Job

Handle = TypeVar("Handle")


@dataclass(frozen=True)
class Resources:
    """Resources of each run on a cluster.

    Attributes:
        threads: CPU cores per run.
        use_gpu: whether runs use a GPU.
        per_gpu: number of runs that share a GPU.
        max_jobs: number of jobs submitted at once; None for all.
    """

    threads: int
    use_gpu: bool
    per_gpu: int
    max_jobs: int | None


class Executor(ABC, Generic[Handle]):
    """Executes the jobs of a sweep."""

    def __init__(self, threads: int, max_jobs: int | None) -> None:
        self.threads, self._max_jobs = threads, max_jobs
        self._running: dict[Job, Handle] = {}

    def has_room(self) -> bool:
        """Return whether another job may be submitted now."""
        return self._max_jobs is None or len(self._running) < self._max_jobs

    def submit(self, job: Job) -> None:
        """Start a job, or queue it."""
        self._running[job] = self._start(job)

    def pop_finished(self) -> list[tuple[Job, int]]:
        """Return the jobs that ended since the last call, with exit statuses, without waiting."""
        finished = self._finished() if self._running else []
        for job, _ in finished:
            del self._running[job]
        return finished

    @abstractmethod
    def shutdown(self) -> None:
        """Let every run save its state, and stop it."""

    @abstractmethod
    def _start(self, job: Job) -> Handle: ...

    @abstractmethod
    def _finished(self) -> list[tuple[Job, int]]: ...

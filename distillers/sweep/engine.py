"""Where runs are run: the one interface of the engines, and how many runs a machine takes."""

from dataclasses import dataclass
from typing import Protocol

from distillers.errors import InputError
from distillers.sweep.job import Job


class Engine(Protocol):
    """Starts runs and says which have ended."""

    def room(self) -> bool:
        """Whether another run may be started now."""
        ...

    def start(self, job: Job) -> None:
        """Start a run, or queue it."""
        ...

    def ended(self) -> list[tuple[Job, int]]:
        """The runs that ended since the last call, with their exit status; it does not wait."""
        ...

    def stop(self) -> None:
        """Let every run save what it can, and end."""
        ...


@dataclass(frozen=True)
class Slots:
    """How many runs a machine takes at once.

    Attributes:
        gpus: for each run that fits, the number of its GPU, or "cpu".
        threads: of each run's computation on the CPU.
    """

    gpus: tuple[str, ...]
    threads: int


def slots(
    gpus: tuple[str, ...], cores: int, per_gpu: int, jobs: int | None, threads: int | None
) -> Slots:
    """Share a machine out.

    Args:
        gpus: the numbers of the GPUs; none stands for the CPU.
        cores: of the CPU that may be used.
        per_gpu: runs that share a GPU.
        jobs: runs at once; left out, as many as the GPUs take, else as the cores.
        threads: of each; left out, the cores that the jobs leave it; on the CPU, without jobs, 1.

    Raises:
        InputError: for more jobs than the GPUs take.
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

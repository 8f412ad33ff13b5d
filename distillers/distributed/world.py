"""The processes that train together, and their collective operations."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from distillers.errors import InputError, PeerLostError

Result = TypeVar("Result")
OF_GLOO = ("gloo/", "Application timeout caused pair closure")  # in messages on lost connections


class Shard(NamedTuple):
    """The part of every epoch that one process of `world_size` reads."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class World:
    """The processes that train together; by default this one alone.

    All processes must call the collective methods in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The part of each dataset that this process reads."""
        return Shard(self.rank, self.size)

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if self.is_first:
            print(text, flush=True)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def sum(self, x: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def all_reduce_max(self, numbers: list[int]) -> list[int]:
        """Element-wise maximum of integers over all processes."""
        if self.size == 1:
            return numbers
        most = torch.tensor(numbers)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return most.tolist()

    def gather(self, content: Any) -> list[Any]:
        """Return the object of every process, in the order of ranks."""
        if self.size == 1:
            return [content]
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, content)
        return everyone

    def check_same(self, facts: dict[str, str]) -> None:
        """Check that facts, by name, have the same values in every process."""
        everyone = self.gather(facts)
        for rank, other in enumerate(everyone):
            for name, value in everyone[0].items():
                if other[name] != value:
                    raise InputError(
                        f"process {rank} has other {name} than process 0 ({other[name]:.60} "
                        f"instead of {value:.60}); all processes must have the same."
                    )

    def broadcast_object(self, content: Any) -> Any:
        """Return the object of rank 0 in every process."""
        if self.size == 1:
            return content
        objects = [content if self.is_first else None]
        dist.broadcast_object_list(objects, 0)
        return objects[0]

    def run_on_rank0(self, function: Callable[[], Result]) -> Result:
        """Return the result of `function` on rank 0 in every process.

        Raises:
            InputError: in every process, if `function` raises it on rank 0.
        """
        result: Any = None
        error = None
        if self.is_first:
            try:
                result = function()
            except InputError as raised:
                if self.size == 1:
                    raise
                error = str(raised)
        error = self.broadcast_object(error)
        if error is not None:
            raise InputError(error)
        return self.broadcast_object(result)

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Raise connection errors inside the context with the place where they occurred.

        Raises:
            PeerLostError: instead of a connection error.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_of_connection(error):
                raise
            why = re.sub(r"^\[\S+:\d+\] ", "", str(error).splitlines()[0]).split(". ")[0]
            raise PeerLostError(
                f"process {self.rank} of {self.size} lost the others in {where}: {why}."
            ) from error

    @contextmanager
    def local_rank0_first(self) -> Iterator[None]:
        """Run the context on local rank 0 first, as for a download, then in the other processes."""
        if self.local_rank != 0:
            self.wait()
        yield
        if self.local_rank == 0:
            self.wait()


def _is_of_connection(error: RuntimeError) -> bool:
    """Return whether it is an error of the connection; those of gloo have no class."""
    return isinstance(error, dist.DistError) or any(text in str(error) for text in OF_GLOO)

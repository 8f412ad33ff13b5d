"""Which part of an epoch a process reads."""

from typing import NamedTuple


class Shard(NamedTuple):
    """The part of every epoch that one process reads.

    Attributes:
        rank: the number of this process.
        world_size: how many processes divide each epoch among themselves.
    """

    rank: int = 0
    world_size: int = 1

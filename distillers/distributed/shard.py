"""Which part of an epoch a process reads."""

from typing import NamedTuple


class Shard(NamedTuple):
    """The part of every epoch that one process of `world_size` reads."""

    rank: int = 0
    world_size: int = 1

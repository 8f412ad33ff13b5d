"""Agreement of processes before they train."""

import os

import pytest

from distillers.distributed.world import World
from distillers.errors import InputError
from tests.processes import together


def differ(name: str) -> None:
    rank = int(os.environ["RANK"])
    world = World(rank, int(os.environ["WORLD_SIZE"]))
    facts = {"images or labels": "abc", "flags": "run_1", "versions": "1.0"}
    world.check_same(facts)
    if rank == 1:
        facts[name] = "other"
    with pytest.raises(InputError, match=f"process 1 has other {name} than process 0"):
        world.check_same(facts)


@pytest.mark.parametrize("name", ["images or labels", "flags", "versions"])
def test_processes_that_differ_are_refused_before_training(name):
    together(2, differ, name)

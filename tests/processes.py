"""Several processes on this machine that train together, for tests."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from distillers.distributed.rendezvous import join_world


def together(world_size: int, function: Callable[..., None], *args: Any) -> None:
    """Run `function(*args)` in so many processes of one group; an error in any is raised here."""
    mp.spawn(_work, args=(world_size, free_port(), function, args), nprocs=world_size)


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _work(rank: int, world_size: int, port: int, function: Callable, args: tuple) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    with join_world(("cpu",)):
        function(*args)

"""Memories in a distributed run: every process ends with what one process with all batches has."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from distillers.losses import CRD, RRD
from distillers.losses.ranks import from_all_ranks

LABELS = torch.arange(24) % 3


def losses() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "crd": CRD(4, 3, LABELS, dim=5, negatives=6),
        "rrd": RRD(4, 3, dim=5, queue_size=11),
        "bank": RRD(4, 3, dim=5, queue_size=24, memory="momentum", enqueue="after"),
    }


def run(loss: nn.Module, name: str, step: int, part: slice) -> None:
    generator = torch.Generator().manual_seed(step)
    index = torch.randperm(24, generator=generator)[:6][part]
    pooled = [torch.randn(6, width, generator=generator)[part] for width in (4, 3)]
    negatives = torch.randint(24, (6, 6), generator=generator)[part]
    if name == "crd":
        loss(*pooled, LABELS[index], index, negatives).backward()
    else:
        loss(*pooled, index).backward()


def work(rank: int, world: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        together = losses()
        for name, loss in together.items():
            for step in range(3):
                run(loss, name, step, slice(3 * rank, 3 * rank + 3))
        states = {name: loss.state_dict() for name, loss in together.items()}
        for name, state in states.items():
            for key, found in state.items():
                everyone = from_all_ranks(found[None].to(torch.float64))
                assert all(torch.equal(one, everyone[0]) for one in everyone), (name, key)
    finally:
        dist.destroy_process_group()
    if rank == 0:
        for name, loss in losses().items():
            for step in range(3):
                run(loss, name, step, slice(0, 6))
            for key, expected in loss.state_dict().items():
                torch.testing.assert_close(states[name][key], expected)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_processes_keep_the_memory_of_one():
    mp.spawn(work, args=(2, free_port()), nprocs=2)


def test_one_process_keeps_its_own():
    x: Tensor = torch.rand(3, 2, requires_grad=True)
    assert torch.equal(from_all_ranks(x), x)
    assert not from_all_ranks(x).requires_grad

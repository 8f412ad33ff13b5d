"""Several teachers on several processes have the loss and gradient of one process."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distillers import distil
from distillers.data.batch import Batch
from tests.nets import Small, make_batch
from tests.processes import together

STEPS = 3
SHARES = {"equal": (6, 6), "uneven": (8, 4)}


def make() -> nn.Module:
    """A task with losses of both kinds, dropping, and no statistics of a batch in the student."""
    torch.manual_seed(0)
    student = Small()
    student.stage2[1] = nn.Identity()
    teachers = [Small(6), Small(8)]
    torch.manual_seed(1)
    task = distil(
        copy.deepcopy(student),
        teachers,
        {"kd": 1.0, "embedmatch": 1.0, "mapmatch": 1.0},
        images=make_batch().images,
        combine="each",
        drop_teachers=True,
    )
    return task.double()


def steps(rows: slice, counts: tuple[int, ...], weight: float) -> list[torch.Tensor]:
    """Return the weighted losses and the student's gradients of some steps."""
    task, found = make(), []
    for seed in range(STEPS):
        whole = make_batch(12, seed=seed)
        batch = Batch(
            whole.images[rows].double(), whole.labels[rows], whole.index[rows], rows_per_rank=counts
        )
        task.zero_grad()
        loss = weight * task(batch).loss
        loss.backward()
        gradient = [p.grad for p in task.parameters() if p.grad is not None]
        found += [loss.detach(), *gradient]
    return found


def run(counts: tuple[int, ...], path: str) -> None:
    rank = dist.get_rank()
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    found = steps(rows, counts, counts[rank] / sum(counts))
    for value in found:
        dist.all_reduce(value)
    if rank == 0:
        torch.save(found, path)


@pytest.mark.parametrize("shares", list(SHARES))
def test_two_processes_are_as_one(shares, tmp_path: Path) -> None:
    together(2, run, SHARES[shares], str(tmp_path / "found.pt"))
    expected = steps(slice(0, 12), (), 1.0)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-8, atol=1e-9)

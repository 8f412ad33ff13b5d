"""How the processes that train together find each other, as their launcher tells them."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from distillers.distributed.world import World
from distillers.errors import InputError

PARTING = 0.2  # seconds that gloo's threads have for letting go of what they still hold


@dataclass(frozen=True)
class Rendezvous:
    """Where this process meets the others, as the environment tells.

    Attributes:
        rank: its number.
        size: how many there are; 1 where it is alone.
        local_rank: its number on this machine.
        address: as `init_process_group` takes it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "env://"


def meeting(environment: Mapping[str, str]) -> Rendezvous:
    """What torchrun's variables, or else those of a SLURM job step, say.

    Raises:
        InputError: for variables that do not belong together.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _of_slurm(environment)
    return Rendezvous()


def _of_torchrun(environment: Mapping[str, str]) -> Rendezvous:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing and environment["WORLD_SIZE"] != "1":
        raise InputError(
            f"RANK and WORLD_SIZE are set but not {' and '.join(missing)}; start with torchrun, or "
            "unset them."
        )
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    return Rendezvous(rank, size, int(environment.get("LOCAL_RANK", rank)))


def _of_slurm(environment: Mapping[str, str]) -> Rendezvous:
    """One task a process, as `srun` starts them."""
    host = environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"])
    job = int(environment.get("SLURM_JOB_ID", "0"))
    port = environment.get("MASTER_PORT") or str(20000 + job % 20000)
    return Rendezvous(
        rank=int(environment["SLURM_PROCID"]),
        size=int(environment["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        address=f"tcp://{host}:{port}",
    )


def first_host(nodes: str) -> str:
    """The first machine of a SLURM node list, as in "node[03-05,09],other"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if found is None:
        raise InputError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no machine.")
    return "".join(part or "" for part in found.groups())


@contextmanager
def join_world(devices: tuple[str, ...] = (), timeout: float = 600.0) -> Iterator[World]:
    """The world that this process is part of, as the environment tells; left at the end.

    Args:
        devices: GPU numbers, one for each process of this machine, or "cpu"; one that stands alone
            goes for all where it is "cpu". Left out: as many GPUs as there are, else the CPU.
        timeout: seconds after which a process that waits for the others gives up.

    Raises:
        InputError: for a GPU that is not there, or fewer devices than processes.
    """
    found = meeting(os.environ)
    device = device_of(devices, found.local_rank, found.size > 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if found.size == 1:
        yield World(device=device)
        return
    # what lies on the CPU goes by gloo on a machine with GPUs, too
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    patience = timedelta(seconds=timeout)
    places = dist.rendezvous(found.address, found.rank, found.size, timeout=patience)
    store, rank, size = next(places)
    # torchrun keeps the store when it starts the processes again, with addresses of dead ones
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt {attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    try:
        yield World(found.rank, found.size, found.local_rank, device)
    finally:
        dist.destroy_process_group()
        # DTensor's caches keep a group, and so its threads, beyond this. One that has yet to let go
        # of a tensor needs the interpreter's lock for it, and once that has ended, aborts.
        time.sleep(PARTING)


def device_of(devices: tuple[str, ...], local_rank: int = 0, shared: bool = False) -> torch.device:
    """The device of one process.

    Args:
        devices: see `joined`.
        local_rank: number of the process on this machine.
        shared: whether other processes train along.

    Raises:
        InputError: for a GPU that is not there, or fewer devices than processes.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not devices:
        devices = tuple(map(str, range(count))) if count else ("cpu",)
        devices = devices if shared else devices[:1]
    if set(devices) == {"cpu"}:
        return torch.device("cpu")
    for name in devices:
        if not name.isdigit():
            raise InputError(f"--gpu_id names {name!r}; it must be numbers of GPUs, or cpu.")
        if int(name) >= count:
            there = f"there are {count}" if count else "there is no usable GPU on this machine"
            raise InputError(
                f"--gpu_id {name} was asked for, but {there}; leave it out or say cpu."
            )
    if local_rank >= len(devices):
        raise InputError(
            f"process {local_rank} of this machine has no GPU: --gpu_id names {len(devices)}. "
            "Start as many processes as GPUs."
        )
    if len(devices) > 1 and not shared:
        raise InputError(
            f"--gpu_id names {len(devices)} GPUs; add --multiprocessing-distributed to train on "
            "all of them, start with torchrun, or name one."
        )
    return torch.device(f"cuda:{devices[local_rank]}")

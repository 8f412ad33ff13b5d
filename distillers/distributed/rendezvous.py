"""Rendezvous of the processes that train together, from the environment of their launcher."""

import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from distillers.distributed.world import World
from distillers.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost")
SHUTDOWN_SECONDS = 0.2  # for gloo's threads to release their tensors


@dataclass(frozen=True)
class Rendezvous:
    """Rank, world size and address (`init_method` of `init_process_group`) of this process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "env://"


def read_environment(environment: Mapping[str, str]) -> Rendezvous:
    """Read the variables of torchrun or else of a SLURM job step."""
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
    """Read the variables of `srun`, which starts one task per process."""
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
    """Return the first host of a SLURM node list such as "node[03-05,09],other"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    if found is None:
        raise InputError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no host.")
    return "".join(part or "" for part in found.groups())


@contextmanager
def join_world(devices: tuple[str, ...] = (), timeout: float = 600.0) -> Iterator[World]:
    """Join the processes that the environment describes, and leave them at the end.

    Args:
        devices: GPU indices, one for each process of this machine, or "cpu" for all. By default
            all GPUs, else the CPU.
        timeout: seconds after which a process stops waiting for the others.

    Raises:
        InputError: if a GPU does not exist, or there are fewer devices than processes.
        PeerLostError: instead of the errors of a connection, in the context, too.
    """
    found = read_environment(os.environ)
    device = device_of(devices, found.local_rank, found.size > 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if found.size == 1:
        yield World(device=device)
        return
    world = World(found.rank, found.size, found.local_rank, device)
    with world.at("the rendezvous"):
        _init_process_group(found, device, timedelta(seconds=timeout))
    try:
        with world.at("set-up or evaluation"):
            yield world
    finally:
        dist.destroy_process_group()
        # DTensor's caches keep the group and its threads alive. A thread that releases a tensor
        # after the interpreter has ended aborts the process.
        time.sleep(SHUTDOWN_SECONDS)


def _init_process_group(found: Rendezvous, device: torch.device, timeout: timedelta) -> None:
    # tensors on the CPU are sent by gloo on a machine with GPUs, too
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # torchrun keeps the store when it starts the processes again, with addresses of dead ones
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt {attempt}", _connect(found, timeout))
    dist.init_process_group(
        backend, store=store, rank=found.rank, world_size=found.size, timeout=timeout
    )


def listen(host: str, port: int) -> dist.TCPStore:
    """Return a store that listens at this address only; port 0 is any that is free.

    Raises:
        OSError: if the address cannot be used.
    """
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen()
        port = server.getsockname()[1]
        return dist.TCPStore(
            host, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
        )


def _connect(found: Rendezvous, timeout: timedelta) -> dist.Store:
    """Return the store of the processes; nothing listens to other machines on loopback."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if found.address == "env://" and host in LOOPBACK:
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if found.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            store = listen(host, int(port))
            store.set_timeout(timeout)
            return store
    return next(dist.rendezvous(found.address, found.rank, found.size, timeout=timeout))[0]


def device_of(devices: tuple[str, ...], local_rank: int = 0, shared: bool = False) -> torch.device:
    """Return the device of a process from those that `join_world` takes.

    Raises:
        InputError: if a GPU does not exist, or there are fewer devices than processes.
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
                f"--gpu_id {name} was asked for, but {there}; leave it out or use cpu."
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

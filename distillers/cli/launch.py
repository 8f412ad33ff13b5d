"""Local processes of --multiprocessing-distributed."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distillers.config.train import TrainConfig
from distillers.errors import STOP_SIGNALS, InputError

if TYPE_CHECKING:
    from torch.distributed import TCPStore
    from torch.multiprocessing.spawn import ProcessContext

FORWARDED_SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1)
GRACE = 60  # seconds for saving after another process has ended


def run(config: TrainConfig, command: str, args: Sequence[str], work: Callable) -> None:
    """Call `work(world)` in this process, or in processes that are started here.

    Raises:
        InputError: if a device does not exist, or the address of --dist_url cannot be used.
        SystemExit: with the exit status of the started processes, after they have ended.
    """
    if config.multiprocessing_distributed and not _is_launched(os.environ):
        raise SystemExit(_start(config, command, args))
    from distillers.distributed.rendezvous import join_world

    with join_world(config.devices(), config.dist_timeout) as world:
        work(world)


def _is_launched(environment: Mapping[str, str]) -> bool:
    """Return whether this process was started by this module, torchrun or SLURM."""
    return "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _start(config: TrainConfig, command: str, args: Sequence[str]) -> int:
    """Start a process for each device, wait, and return the first exit status other than 0."""
    import torch
    from torch import multiprocessing

    devices = config.devices() or tuple(map(str, range(torch.cuda.device_count()))) or ("cpu",)
    from distillers.distributed.rendezvous import device_of

    for number in range(len(devices)):
        device_of(devices, number, shared=True)
    host, port = _address(config.dist_url)
    store = _open_store(config.dist_url, host, port)
    environment = {
        "MASTER_ADDR": host,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(len(devices)),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # that of this process
    }
    processes = multiprocessing.start_processes(
        _process, (command, list(args), environment), len(devices), join=False, start_method="spawn"
    )
    assert processes is not None  # with join=False
    for number in FORWARDED_SIGNALS:
        signal.signal(number, lambda heard, _: [os.kill(pid, heard) for pid in processes.pids()])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    try:
        while not _wait(processes, min(GRACE, config.dist_timeout)):
            pass
    except multiprocessing.ProcessExitedException as ended:
        return ended.exit_code if ended.exit_code >= 0 else 128 - ended.exit_code
    return 0


def _wait(processes: "ProcessContext", grace: float) -> bool:
    """Wait until a process ends, and end the others if it failed; return whether all have ended.

    Raises:
        ProcessExitedException: if one failed, after all have ended.
    """
    connection.wait(list(processes.sentinels))
    if any(process.exitcode for process in processes.processes):
        for process in processes.processes:
            if process.is_alive():  # one that was stopped cannot end
                os.kill(process.pid, signal.SIGCONT)
    return processes.join(timeout=0, grace_period=grace)


def _process(rank: int, command: str, args: list[str], environment: dict[str, str]) -> None:
    from distillers.cli import main as cli

    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.exit(cli.run(command, args, until_exit=True))


def _address(url: str) -> tuple[str, int]:
    """Return host and port of --dist_url; port 0, for any that is free, if it is the default.

    Raises:
        InputError: if it is not tcp://HOST:PORT.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"--dist_url is {url}: {error}.") from error
    if parts.scheme != "tcp" or not host or not port:
        raise InputError(f"--dist_url is {url}; it must be tcp://HOST:PORT.")
    return host, 0 if url == TrainConfig.dist_url else port


def _open_store(url: str, host: str, port: int) -> "TCPStore":
    """Return the store of the rendezvous, which listens at this address only."""
    from distillers.distributed.rendezvous import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise InputError(
            f"--dist_url is {url}, where this machine cannot listen: {error.strerror}. If another "
            "run uses it, choose another port."
        ) from error

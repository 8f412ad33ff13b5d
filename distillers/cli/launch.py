"""One command that becomes several processes on this machine: --multiprocessing-distributed."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from distillers.config.train import TrainConfig
from distillers.errors import InputError

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
GRACE = 60  # seconds to save in, after another process has ended


def run(config: TrainConfig, command: str, args: Sequence[str], work: Callable) -> None:
    """Do `work(world)` in this process, or start processes that do.

    Args:
        config: the flags.
        command: of `distillers`, to be run in each process.
        args: its flags.
        work: gets the `World` that this process is in.

    Raises:
        InputError: for devices that are not there, or a meeting place that is taken.
        SystemExit: when the processes that were started have ended, with their exit status.
    """
    if config.multiprocessing_distributed and not _is_started(os.environ):
        raise SystemExit(_start(config, command, args))
    from distillers.distributed.rendezvous import join_world

    with join_world(config.devices(), config.dist_timeout) as world:
        work(world)


def _is_started(environment: Mapping[str, str]) -> bool:
    """Whether a launcher, ours or torchrun, made this process."""
    return "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _start(config: TrainConfig, command: str, args: Sequence[str]) -> int:
    """Start the processes and wait for all; the first exit status that is not 0."""
    import torch
    from torch import multiprocessing

    devices = config.devices() or tuple(map(str, range(torch.cuda.device_count()))) or ("cpu",)
    from distillers.distributed.rendezvous import device_of

    for number in range(len(devices)):
        device_of(devices, number, shared=True)
    host, port = _address(config.dist_url)
    environment = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(len(devices))}
    processes = multiprocessing.start_processes(
        _process, (command, list(args), environment), len(devices), join=False, start_method="spawn"
    )
    assert processes is not None  # with join=False
    for number in PASSED_ON:
        signal.signal(number, lambda heard, _: [os.kill(pid, heard) for pid in processes.pids()])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the processes, too
    try:
        while not processes.join(timeout=0.5, grace_period=GRACE):
            pass
    except multiprocessing.ProcessExitedException as ended:
        return ended.exit_code if ended.exit_code >= 0 else 128 - ended.exit_code
    return 0


def _process(rank: int, command: str, args: list[str], environment: dict[str, str]) -> None:
    from distillers.cli import main as cli

    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.exit(cli.run(command, args))


def _address(url: str) -> tuple[str, int]:
    """Host and port of --dist_url.

    Raises:
        InputError: for anything but tcp://HOST:PORT, or a port of this machine that is taken.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"--dist_url is {url}: {error}.") from error
    if parts.scheme != "tcp" or not host or not port:
        raise InputError(f"--dist_url is {url}; it must be tcp://HOST:PORT.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--dist_url is {url}, where this machine cannot listen: {error.strerror}. Another "
                "run may be there; take another port."
            ) from error
    return host, port

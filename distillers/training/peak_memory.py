"""Measure the peak memory of a training step in a separate process."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from distillers.errors import InputError
from distillers.timing import synchronize
from distillers.training.benchmark import VARIANTS, BenchmarkSetup
from distillers.training.memory import reuse_freed_memory

MIB = 2**20
RESET = Path("/proc/self/clear_refs")


def step_peak_mib(setup: BenchmarkSetup, method: str, variant: str, folder: Path) -> float:
    """Return the peak memory of a step in MiB, beyond that of the process before it is built.

    On a CPU this is resident memory, including what compilation leaves behind; on a GPU, memory
    that PyTorch allocated.

    `setup` must be picklable, and `variant` is one of `VARIANTS`; a cache is written to `folder`.

    Raises:
        InputError: on a CPU without Linux, where the peak is not known.
    """
    if setup.device.type == "cpu" and not RESET.exists():
        raise InputError("the peak memory on a CPU is only known on Linux; leave out --memory.")
    context = multiprocessing.get_context("spawn")  # a forked process inherits its parent's peak
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_peak, setup, method, variant, threads, folder).result()


def _peak(setup: BenchmarkSetup, method: str, variant: str, threads: int, folder: Path) -> float:
    torch.set_num_threads(threads)
    reuse_freed_memory()
    before = _read_status("VmRSS")
    step = VARIANTS[variant].build_step(setup, method, folder / f"peak-{method}-{variant}")
    for _ in range(3):  # the first ones compile, choose kernels, and allocate the momentum
        step()
    synchronize(setup.device)
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
    else:
        RESET.write_text("5")  # resets the peak
    for _ in range(3):
        step()
    synchronize(setup.device)
    if setup.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setup.device) / MIB
    return _read_status("VmHWM") - before


def _read_status(name: str) -> float:
    """Return an entry of /proc/self/status in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024

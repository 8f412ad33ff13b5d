"""The most memory that a step takes, measured in a process of its own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from distillers.errors import InputError
from distillers.timing import synchronize
from distillers.training.benchmark import WAYS, Setting
from distillers.training.malloc import reuse_freed_memory

MIB = 2**20
RESET = Path("/proc/self/clear_refs")


def peak_of(setting: Setting, method: str, way: str, folder: Path) -> float:
    """MiB that the whole steps of a method take beyond what the process has before it builds it.

    On a CPU that is resident memory, which holds what compiling leaves behind too; on a GPU what
    PyTorch allocated.

    Args:
        setting: what is measured; its networks must be such as can be sent to another process.
        method: name of a loss.
        way: one of `WAYS`.
        folder: for a cache.

    Raises:
        InputError: on a CPU elsewhere than on Linux, which alone tells it.
    """
    if setting.device.type == "cpu" and not RESET.exists():
        raise InputError("the peak memory on a CPU is only known on Linux; leave out --memory.")
    context = multiprocessing.get_context("spawn")  # a forked process inherits its parent's peak
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_peak, setting, method, way, threads, folder).result()


def _peak(setting: Setting, method: str, way: str, threads: int, folder: Path) -> float:
    torch.set_num_threads(threads)
    reuse_freed_memory()
    before = _status("VmRSS")
    step = WAYS[way].step(setting, method, folder / f"peak-{method}-{way}")
    for _ in range(3):  # the first ones compile, choose kernels, and make the momentum
        step()
    synchronize(setting.device)
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    else:
        RESET.write_text("5")  # the peak counts from here on
    for _ in range(3):
        step()
    synchronize(setting.device)
    if setting.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setting.device) / MIB
    return _status("VmHWM") - before


def _status(name: str) -> float:
    """A number of the system's report on this process, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024

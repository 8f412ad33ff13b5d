"""Time callables in interleaved rounds, so that other load on the machine affects all alike."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

Name = TypeVar("Name")

BUSY_CORES = 0.5  # used by other programs, from which on a measurement is marked


def time_interleaved(
    runs: Mapping[Name, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Return the seconds of each run in each round; every round calls all of them in order.

    Args:
        runs: what to time, by name.
        rounds: number of timed rounds.
        device: where they compute; it is synchronized before and after each call.
        warm_up: number of rounds before these, which are not timed.
        clock: returns seconds.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            synchronize(device)
            start = clock()
            run()
            synchronize(device)
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


class LoadMeter:
    """Measure how many CPU cores other programs keep busy, from its construction on (Linux)."""

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), _busy_seconds_of_others()

    def busy_cores(self) -> float | None:
        """Return the mean number of cores used by others; None if unknown or under 0.1 s old."""
        seconds, after = time.monotonic() - self._started, _busy_seconds_of_others()
        if self._before is None or after is None or seconds < 0.1:
            return None
        return max(0.0, (after - self._before) / seconds)

    def warning(self) -> str:
        """Return a note on measurements that others slowed, "" if there is no such load."""
        cores = self.busy_cores()
        if cores is None or cores < BUSY_CORES:
            return ""
        return f"other programs kept {cores:.1f} of {os.cpu_count()} cores busy, which slows this"


def _busy_seconds_of_others() -> float | None:
    """Return the CPU seconds of all processes but this one and its ended children."""
    try:
        ticks = _read_busy_ticks()
    except (OSError, ValueError):  # no Linux
        return None
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def _read_busy_ticks() -> int:
    with Path("/proc/stat").open(encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    return user + nice + system + irq + softirq + steal


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Time callables in interleaved rounds, so that other load on the machine affects all alike."""

import time
from collections.abc import Callable, Mapping

import torch


def time_interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each run in each round; every round calls all of them in order.

    Args:
        runs: what to time, by name.
        rounds: number of timed rounds.
        device: where they compute; it is synchronized before and after each call.
        warm_up: number of rounds before these, which are not timed.
        clock: returns seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            synchronize(device)
            start = clock()
            run()
            synchronize(device)
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How long things take that take turns, so that what else the machine does hits them alike."""

import time
from collections.abc import Callable, Mapping

import torch


def in_turn(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round runs all of them, in order.

    Args:
        runs: what to time, by name.
        rounds: how many times.
        device: where they compute; it is waited for.
        warm_up: rounds before those.
        clock: gives seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            wait(device)
            start = clock()
            run()
            wait(device)
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def wait(device: torch.device) -> None:
    """Until a device has done everything that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

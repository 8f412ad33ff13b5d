"""Measure the cost of a network: parameters, multiply-accumulates, latency, memory."""

import resource
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distillers.features.extractor import eval_mode
from distillers.timing import time_interleaved

WARM_UP_RUNS = 3
MIN_SECONDS = 0.3

Name = TypeVar("Name")


def count_parameters(net: nn.Module) -> int:
    """Return the number of parameters, trainable and frozen, without buffers."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, image_size: int, channels: int = 3) -> int:
    """Count multiply-accumulates for one image in convolutions, matrix products and attention."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), eval_mode(net), counter:
        net(_image(net, 1, channels, image_size))
    return counter.get_total_flops() // 2


def latencies_ms(
    work: Mapping[Name, tuple[nn.Module, int, int]], repeats: int = 30, channels: int = 3
) -> dict[Name, float]:
    """Return the median milliseconds of a forward of each network, see `forward_seconds`."""
    seconds = forward_seconds(work, repeats, channels)
    return {name: 1000 * statistics.median(each) for name, each in seconds.items()}


def forward_seconds(
    work: Mapping[Name, tuple[nn.Module, int, int]], repeats: int = 30, channels: int = 3
) -> dict[Name, list[float]]:
    """Return the seconds of interleaved forwards of networks in evaluation mode.

    They are interleaved, so that other load on the machine affects all alike.

    Args:
        work: for each name the network, the side of its images in pixels, and images per forward;
            all networks are on the same device.
        repeats: number of timed forwards, after three warm-up ones; continued for 0.3 seconds,
            so that a `LoadMeter` has something to measure.
        channels: number of channels of the images.
    """
    runs = {}
    device = torch.device("cpu")
    with torch.inference_mode(), ExitStack() as modes:
        for name, (net, image_size, batch_size) in work.items():
            modes.enter_context(eval_mode(net))
            images = _image(net, batch_size, channels, image_size)
            runs[name], device = partial(net, images), images.device
        seconds = time_interleaved(runs, repeats, device, warm_up=WARM_UP_RUNS)
        while sum(map(sum, seconds.values())) < MIN_SECONDS:
            for name, more in time_interleaved(runs, repeats, device, warm_up=0).items():
                seconds[name] += more
    return seconds


def latency_ms(net: nn.Module, image_size: int, batch_size: int = 1, **options: int) -> float:
    """Return the median milliseconds of a forward of one network, see `forward_seconds`."""
    return latencies_ms({"net": (net, image_size, batch_size)}, **options)["net"]


def peak_memory_mib(net: nn.Module) -> float:
    """Return the peak memory in MiB on the device of a network.

    On a GPU, memory that PyTorch allocated for tensors; on a CPU, the resident memory of the whole
    process, including libraries and data.
    """
    device = next(net.parameters()).device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def _image(net: nn.Module, batch_size: int, channels: int, image_size: int) -> Tensor:
    """Return zeros (batch_size, channels, image_size, image_size) like the parameters."""
    like = next(net.parameters(), torch.zeros(()))  # an `OnnxNetwork` has none
    return like.new_zeros(batch_size, channels, image_size, image_size)

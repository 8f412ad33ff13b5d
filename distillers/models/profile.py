"""Measure the cost of a network: parameters, multiply-accumulates, latency, memory."""

import resource
import statistics
import sys
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distillers.features.extractor import eval_mode

WARM_UP_RUNS = 3


def count_parameters(net: nn.Module) -> int:
    """Return the number of parameters, trainable and frozen, without buffers."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, image_size: int, channels: int = 3) -> int:
    """Count multiply-accumulates for one image in convolutions, matrix products and attention.

    Args:
        net: maps images (n, c, h, w) to logits; runs once in evaluation mode.
        image_size: side of the image in pixels.
        channels: number of channels of the image.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), eval_mode(net), counter:
        net(_image(net, 1, channels, image_size))
    return counter.get_total_flops() // 2


def latency_ms(
    net: nn.Module, image_size: int, batch_size: int = 1, repeats: int = 30, channels: int = 3
) -> float:
    """Return the median milliseconds of a forward in evaluation mode, on the network's device.

    Args:
        net: maps images (n, c, h, w) to logits.
        image_size: side of the images in pixels.
        batch_size: number of images per forward.
        repeats: number of timed forwards, after three warm-up ones.
        channels: number of channels of the images.
    """
    images = _image(net, batch_size, channels, image_size)
    seconds = []
    with torch.inference_mode(), eval_mode(net):
        for _ in range(WARM_UP_RUNS + repeats):
            _synchronize(images)
            start = time.perf_counter()
            net(images)
            _synchronize(images)
            seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[WARM_UP_RUNS:])


def peak_memory_mib(net: nn.Module) -> float:
    """Return the peak memory in MiB on the device of a network.

    On a GPU, memory that PyTorch allocated for tensors; on a CPU, the resident memory of the whole
    process, including libraries and data.
    """
    device = next(net.parameters()).device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    )  # bytes on macOS, KiB on Linux


def _image(net: nn.Module, batch_size: int, channels: int, image_size: int) -> Tensor:
    """Return zeros (batch_size, channels, image_size, image_size) like the parameters."""
    like = next(net.parameters(), torch.zeros(()))  # an `OnnxNetwork` has none
    return like.new_zeros(batch_size, channels, image_size, image_size)


def _synchronize(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)

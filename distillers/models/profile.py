"""What a network costs: parameters, multiplications, time."""

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
    """The number of learnable and frozen parameters, buffers not among them."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, image_size: int, channels: int = 3) -> int:
    """Multiply-accumulates of one image, in convolutions, matrix products and attention.

    Args:
        net: maps images (n, c, h, w) to logits; it runs once in evaluation mode.
        image_size: side of the image in pixels.
        channels: channels of the image.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), eval_mode(net), counter:
        net(_image(net, 1, channels, image_size))
    return counter.get_total_flops() // 2


def latency_ms(
    net: nn.Module, image_size: int, batch_size: int = 1, repeats: int = 30, channels: int = 3
) -> float:
    """Median milliseconds of a forward in evaluation mode, on the device of the network.

    Args:
        net: maps images (n, c, h, w) to logits.
        image_size: side of the images in pixels.
        batch_size: images in one forward.
        repeats: forwards to take the median of, after three that do not count.
        channels: channels of the images.
    """
    images = _image(net, batch_size, channels, image_size)
    seconds = []
    with torch.inference_mode(), eval_mode(net):
        for _ in range(WARM_UP_RUNS + repeats):
            _wait(images)
            start = time.perf_counter()
            net(images)
            _wait(images)
            seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[WARM_UP_RUNS:])


def peak_memory_mib(net: nn.Module) -> float:
    """The most memory in MiB that was ever in use where a network is.

    On a GPU, what PyTorch gave to this process's tensors there; on a CPU, the whole process, with
    the libraries and the data that it holds.
    """
    device = next(net.parameters()).device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def _image(net: nn.Module, batch_size: int, channels: int, image_size: int) -> Tensor:
    """Zeros (batch_size, channels, image_size, image_size) where and as the parameters are."""
    like = next(net.parameters(), torch.zeros(()))  # an ONNX file's network has none
    return like.new_zeros(batch_size, channels, image_size, image_size)


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)

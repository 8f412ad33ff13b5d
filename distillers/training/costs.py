"""Costs of a deployed network, for the `summary.json` of a run."""

from typing import Any

import torch
from torch import distributed, nn

from distillers.models.profile import count_macs, count_parameters, latency_ms
from distillers.timing import LoadMeter


def costs(deployed: nn.Module, image_size: int) -> dict[str, Any]:
    """Measure the costs of a deployed network.

    Returns:
        `parameters`; `macs` of one image; `latency_ms`, the median of 30 forward passes of one
        image on this device; the name of the `device`; the number of `devices` that trained
        together; `cpu_threads`.
    """
    device = next(deployed.parameters()).device
    together = distributed.is_available() and distributed.is_initialized()
    meter = LoadMeter()
    latency = latency_ms(deployed, image_size)
    return {
        "parameters": count_parameters(deployed),
        "macs": count_macs(deployed, image_size),
        "latency_ms": latency,
        "busy_cores": meter.busy_cores(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "devices": distributed.get_world_size() if together else 1,
        "cpu_threads": torch.get_num_threads(),
    }

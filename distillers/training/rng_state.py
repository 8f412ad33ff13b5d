"""The state of every random number generator that a run may draw from."""

import random
from typing import Any, cast

import numpy as np
import torch


def generator_state(device: torch.device) -> dict[str, Any]:
    """Return the RNG states of PyTorch (CPU and `device`), NumPy and Python, in plain types."""
    kind, keys, *rest = cast(tuple, np.random.get_state())  # noqa: NPY002, losses of users may draw from it
    version, words, spare = random.getstate()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, list(words), spare],
    }


def set_generators(state: dict[str, Any], device: torch.device) -> None:
    """Restore a `generator_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, spare = state["python"]
    random.setstate((version, tuple(words), spare))

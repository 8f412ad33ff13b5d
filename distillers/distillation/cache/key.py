"""Identify a cache by its teacher, its data and their augmentation."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from distillers.checkpoints.input_adapter import InputAdapter
from distillers.config.run_files import json_digest
from distillers.data.fingerprint import hash_tensors
from distillers.data.source import DataSource

FORMAT = 1  # increased when the files or the meaning of views and values change

Key = dict[str, Any]


def cache_key(teacher: nn.Module, name: str, source: DataSource) -> Key:
    """Return all that the teacher's outputs depend on, in JSON-compatible types.

    The number of views and the features that a run reads are not part of it: runs that differ in
    these share a cache, which grows.

    Args:
        teacher: with its input adapter, neither fused nor compiled.
        name: of its architecture.
        source: the training images, without those that are held out.
    """
    return {
        "format": FORMAT,
        "teacher": {"model": name, "modules": _modules(teacher), **network_key(teacher)},
        "data": source.fingerprint(),
    }


def network_key(teacher: nn.Module) -> Key:
    """Return what a teacher's outputs for images depend on, whatever the version of its code."""
    return {"weights": _weights(teacher), "input": _input(teacher)}


def digest(key: Key) -> str:
    """Return a hash of a key, 12 hexadecimal digits."""
    return json_digest(key)[:12]


def differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the dotted names of the differing entries of two keys, e.g. "teacher.weights"."""
    found = []
    for name in (*one, *(name for name in other if name not in one)):
        mine, yours = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(yours, Mapping):
            found += differences(mine, yours, f"{above}{name}.")
        elif mine != yours:
            found.append(f"{above}{name}")
    return found


def _modules(net: nn.Module) -> str:
    """Return a hash of the printed modules, without memory addresses."""
    printed = re.sub(r" at 0x[0-9a-f]+", "", str(net))
    return hashlib.sha256(printed.encode()).hexdigest()[:32]


def _weights(net: nn.Module) -> str:
    """Return a hash of all parameters and buffers with their names."""
    held = dict(net.named_parameters()) | dict(net.named_buffers())
    parts = "".join(f"{name} {hash_tensors(held[name])}\n" for name in sorted(held))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _input(net: nn.Module) -> str | dict[str, Any]:
    """Return how the input adapter changes the images."""
    adapter = next((each for each in net.modules() if isinstance(each, InputAdapter)), None)
    if adapter is None:
        return "as they are"
    smooth = {} if adapter.interpolation == "bilinear" else {"resize": adapter.interpolation}
    return {
        "size": list(adapter.size) if adapter.size else None,
        "scale": adapter.scale.flatten().tolist(),
        "shift": adapter.shift.flatten().tolist(),
        **smooth,
    }

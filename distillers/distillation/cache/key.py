"""What a cache is a cache of: the teacher, the data and their views; another is never read."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from distillers.checkpoints.input_adapter import InputAdapter
from distillers.data.fingerprint import hash_tensors
from distillers.data.source import DataSource

FORMAT = 1  # of the files; also raised when views or values come to mean something else

Key = dict[str, Any]


def cache_key(teacher: nn.Module, name: str, source: DataSource) -> Key:
    """Everything that the teacher's values depend on, as plain types that a person can read.

    How many views a run shows is not part of it, nor what its losses read: caches are shared by
    all such runs, and grow.

    Args:
        teacher: as it gets the images of `source`, before anything is folded or compiled.
        name: of its architecture.
        source: the images that are trained on, without those that are held out.
    """
    return {
        "format": FORMAT,
        "teacher": {
            "model": name,
            "modules": _modules(teacher),
            "weights": _weights(teacher),
            "input": _input(teacher),
        },
        "data": source.fingerprint(),
    }


def digest(key: Key) -> str:
    """Twelve hexadecimal digits that differ wherever a key differs."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> list[str]:
    """The names of what differs between two keys, as in "teacher.weights"."""
    found = []
    for name in (*one, *(name for name in other if name not in one)):
        mine, yours = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(yours, Mapping):
            found += differences(mine, yours, f"{above}{name}.")
        elif mine != yours:
            found.append(f"{above}{name}")
    return found


def _modules(net: nn.Module) -> str:
    """A hash of the modules as they print themselves, without addresses in memory."""
    printed = re.sub(r" at 0x[0-9a-f]+", "", str(net))
    return hashlib.sha256(printed.encode()).hexdigest()[:32]


def _weights(net: nn.Module) -> str:
    """A hash of all parameters and buffers with their names, in the order of the names."""
    held = dict(net.named_parameters()) | dict(net.named_buffers())
    parts = "".join(f"{name} {hash_tensors(held[name])}\n" for name in sorted(held))
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _input(net: nn.Module) -> str | dict[str, Any]:
    """What becomes of the images before the network sees them."""
    if not isinstance(net, InputAdapter):
        return "as they are"
    return {
        "size": list(net.size) if net.size else None,
        "scale": net.scale.flatten().tolist(),
        "shift": net.shift.flatten().tolist(),
    }

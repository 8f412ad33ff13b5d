"""The file of a linear head that was fitted to a teacher's embeddings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distillers.checkpoints.checksum import BLANK, KEY, add_to_safetensors, check_checksum
from distillers.errors import complain
from distillers.files import write_atomically


def write_head(
    path: Path, held: Mapping[str, Tensor], facts: Mapping[str, Any], class_names: Sequence[str]
) -> None:
    """Write the weight and bias of a head, and facts about it, with a checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"facts": json.dumps(facts), "class_names": json.dumps(list(class_names))}
    content = save(dict(held), {**metadata, KEY: BLANK.decode()})
    write_atomically(path, add_to_safetensors(content))


def read_head(path: Path) -> dict[str, Any] | None:
    """Return the tensors and facts of a head; None, with a warning, if they are not intact."""
    found: dict[str, Any] = {}
    try:
        is_whole = check_checksum(path)
        with safe_open(str(path), "pt") as file:
            found |= {name: file.get_tensor(name) for name in ("weight", "bias")}
            facts = json.loads((file.metadata() or {})["facts"])
        found |= {"line": f"{facts['line']} (read from {path})", "accuracy": facts["accuracy"]}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        complain(f"WARNING: {path} is damaged or has no checksum; the head is fitted anew.")
    return found if is_whole else None

"""Read the index of weights in several files, as Hugging Face's libraries write it."""

import hashlib
import json
import re
from pathlib import Path

from distillers.checkpoints.content import is_index
from distillers.data.datasets.listing import first_few
from distillers.errors import CorruptFileError, InputError
from distillers.files import file_name, sha256

PART = re.compile(r"-(\d{5})-of-(\d{5})(\.[a-z]+)$")
MAX_BYTES = 10**8


def weights_by_part(index: Path) -> dict[Path, list[str]]:
    """Return the names of the weights in each file that an index names.

    Raises:
        InputError: if a file is missing; the message names it.
        CorruptFileError: if the index is damaged, or names a file outside of its folder.
    """
    try:
        too_large = index.stat().st_size > MAX_BYTES
        content = {} if too_large else json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"{index} is not valid JSON ({error}); download it again."
        ) from error
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CorruptFileError(f"{index} has no weight_map with the files of weights.")
    parts: dict[Path, list[str]] = {}
    for weight, file in weights.items():
        if not isinstance(file, str) or file != file_name(file) or file.startswith("."):
            raise CorruptFileError(f"{index}: {file!r:.60} is no name of a file beside it.")
        parts.setdefault(index.parent / file, []).append(weight)
    missing = [path.name for path in parts if not path.is_file()]
    if missing:
        raise InputError(
            f"{index} names {len(parts)} files, of which {len(missing)} are not in its folder: "
            f"{first_few(missing)}. Copy or download them, too."
        )
    return parts


def check_whole(path: Path) -> None:
    """Check that a file is not one of several that hold the weights of a network together.

    Raises:
        InputError: if it is, by its name; the message names the index.
    """
    part = PART.search(path.name)
    if part and int(part[2]) > 1:
        index = path.with_name(f"{path.name[: part.start()]}{part[3]}.index.json")
        raise InputError(
            f"{path} is part {int(part[1])} of {int(part[2])} of the weights; name their index, "
            f"{index}, which reads all parts."
        )


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold the weights of a file or an index, with the index."""
    return [path, *weights_by_part(path)] if is_index(path) else [path]


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of those of the files that an index names."""
    if not is_index(path):
        return sha256(path)
    parts = "".join(sha256(part) for part in weights_by_part(path))
    return hashlib.sha256(parts.encode()).hexdigest()

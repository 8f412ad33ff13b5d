"""Files: atomic writing, checksums and names."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Error numbers for which a file cannot grow: disk, quota, or limit of the file size.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file under a temporary name, flush it, and rename it; keep the old one as `previous`.

    Raises:
        OSError: if it cannot be written; an existing file at `path` is unchanged.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except BaseException:  # a signal, too
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name a file in every `OSError` that does not, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; names of files in it that are not UTF-8 keep their bytes."""
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically; a number that is not finite is an error."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(text: str) -> str:
    """Replace every character of `text` that a file system may not accept by "-"."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text)

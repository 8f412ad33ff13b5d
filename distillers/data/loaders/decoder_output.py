"""Keep the lines that native decoders print, which name no file, away from stderr."""

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

# As libjpeg words its warnings.
LINE = re.compile(
    r"^(Corrupt JPEG data:|Premature end of JPEG|Warning: unknown JFIF|Inconsistent progression"
    r"|Invalid (SOS|component|crop)|Unknown Adobe color|libpng (warning|error):)"
)
_LOCK = threading.Lock()  # a process has one stderr


@contextmanager
def captured() -> Iterator[list[str]]:
    """Collect what decoders print inside the context; the rest is forwarded at its end.

    Yields:
        the decoders' lines, complete when the context has ended.
    """
    lines: list[str] = []
    stderr = None
    with _LOCK:
        scratch = _scratch()
        if scratch is not None:
            with suppress(OSError):  # stderr is closed
                stderr = os.dup(2)
                os.dup2(scratch, 2)
        try:
            yield lines
        finally:
            if scratch is not None and stderr is not None:
                os.dup2(stderr, 2)
                os.close(stderr)
                for line in _taken(scratch).decode(errors="replace").splitlines(keepends=True):
                    if LINE.match(line):
                        lines.append(line.strip())
                    else:
                        print(line, end="", file=sys.stderr, flush=True)


@cache
def _scratch() -> int | None:
    """Return a file in memory, one per process; None elsewhere than on Linux."""
    return os.memfd_create("stderr") if hasattr(os, "memfd_create") else None


def _taken(scratch: int) -> bytes:
    """Return what was written to the file in memory, and empty it."""
    text = os.pread(scratch, os.lseek(scratch, 0, os.SEEK_CUR), 0)
    os.lseek(scratch, 0, os.SEEK_SET)
    os.ftruncate(scratch, 0)
    return text


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_scratch.cache_clear)

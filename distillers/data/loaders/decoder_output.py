"""Keep the lines that native decoders print, which name no file, away from stderr."""

import os
import re
import sys
import threading
from contextlib import suppress
from functools import cache
from typing import Self

# As libjpeg words its warnings.
LINE = re.compile(
    r"^(Corrupt JPEG data:|Premature end of JPEG|Warning: unknown JFIF|Inconsistent progression"
    r"|Invalid (SOS|component|crop)|Unknown Adobe color|libpng (warning|error):)"
)
_LOCK = threading.Lock()  # a process has one stderr


class Capture:
    """Context manager that collects what decoders print; the rest is forwarded at its end.

    Attributes:
        lines: the decoders' lines, complete when the block has ended.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._stderr = -1

    def __enter__(self) -> Self:
        _LOCK.acquire()
        scratch = _scratch()
        if scratch is not None:
            with suppress(OSError):  # stderr is closed
                self._stderr = os.dup(2)
                os.dup2(scratch, 2)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._stderr >= 0:
                os.dup2(self._stderr, 2)
                os.close(self._stderr)
                self._sort(_taken())
        finally:
            _LOCK.release()

    def _sort(self, text: bytes) -> None:
        for line in text.decode(errors="replace").splitlines(keepends=True):
            if LINE.match(line):
                self.lines.append(line.strip())
            else:
                print(line, end="", file=sys.stderr, flush=True)


@cache
def _scratch() -> int | None:
    """Return a file in memory, one per process; None elsewhere than on Linux."""
    return os.memfd_create("stderr") if hasattr(os, "memfd_create") else None


def _taken() -> bytes:
    """Return what was written to the file in memory, and empty it."""
    scratch = _scratch()
    size = os.lseek(scratch, 0, os.SEEK_CUR) if scratch is not None else 0
    if scratch is None or not size:
        return b""
    text = os.pread(scratch, size, 0)
    os.lseek(scratch, 0, os.SEEK_SET)
    os.ftruncate(scratch, 0)
    return text


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_scratch.cache_clear)

"""A file of rows of one length, read and written a row at a time by any number of processes."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path


class RowFile:
    """Rows of bytes, each at its number times their length; what was never written reads as zeros.

    The file is sparse: rows that were never written take no room on file systems that can do so.
    It is read by system calls and not mapped into memory. So what was read does not count as
    memory of this process, and a full disk or a file cut short is an error code and not a signal.

    Args:
        path: of the file, made where it is missing.
        row_bytes: of a row.
        read_only: open for reading alone; then the file must be there.
    """

    def __init__(self, path: Path, row_bytes: int, read_only: bool = False) -> None:
        self.path = path
        self.row_bytes = row_bytes
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._file = os.open(path, flags | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        """How many rows the file reaches, the last perhaps in part."""
        return -(-os.fstat(self._file).st_size // self.row_bytes)

    @property
    def disk_bytes(self) -> int:
        """What the file takes on the disk."""
        return os.fstat(self._file).st_blocks * 512

    def read(self, rows: Sequence[int], into: memoryview) -> None:
        """Read rows one after the other.

        Args:
            rows: their numbers.
            into: `len(rows)` times `row_bytes` bytes; zeros where the file does not reach.
        """
        size = self.row_bytes
        for place, row in enumerate(rows):
            part = into[place * size : (place + 1) * size]
            if os.preadv(self._file, [part], row * size) < size:
                self._read_slowly(row * size, part)

    def read_range(self, start: int, into: memoryview) -> None:
        """Read the rows from number `start` on that fill `into`, as `read` does."""
        self._read_slowly(start * self.row_bytes, into)

    def write(self, rows: Sequence[int], data: memoryview) -> None:
        """Write rows, as `read` reads them.

        Raises:
            OSError: when there is no room; the rows before are written.
        """
        size = self.row_bytes
        for place, row in enumerate(rows):
            part, done = data[place * size : (place + 1) * size], 0
            while done < size:  # a disk that is nearly full takes a part first
                done += os.pwrite(self._file, part[done:], row * size + done)

    def _read_slowly(self, offset: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            more = os.preadv(self._file, [into[done:]], offset + done)
            if not more:
                into[done:] = bytes(len(into) - done)
                return
            done += more

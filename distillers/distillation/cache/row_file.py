"""Read and write rows of bytes in a sparse file, from any number of processes."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from distillers.files import naming


class RowFile:
    """A file of rows of equal length; rows that were never written read as zeros.

    The file is sparse, so that missing rows take no space if the file system supports it. It is
    read by system calls instead of a memory map: pages that were read do not count as memory of the
    process, and a full disk or a truncated file raises an error instead of a signal.
    """

    def __init__(self, path: Path, row_bytes: int, read_only: bool = False) -> None:
        self.path = path
        self.row_bytes = row_bytes
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._file = os.open(path, flags, 0o666)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        """Return the number of rows up to the end of the file, the last one possibly incomplete."""
        return -(-os.fstat(self._file).st_size // self.row_bytes)

    @property
    def disk_bytes(self) -> int:
        """Bytes that the file takes on the disk."""
        return os.fstat(self._file).st_blocks * 512

    def read(self, rows: Sequence[int], into: memoryview) -> None:
        """Read rows into a buffer of their size; zeros beyond the end of the file."""
        size = self.row_bytes
        for place, row in enumerate(rows):
            self.read_range(row, into[place * size : (place + 1) * size])

    def read_range(self, start: int, into: memoryview) -> None:
        """Read consecutive rows from index `start` on until `into` is full."""
        offset, done = start * self.row_bytes, 0
        while done < len(into):
            more = os.preadv(self._file, [into[done:]], offset + done)
            if not more:
                into[done:] = bytes(len(into) - done)
                return
            done += more

    def write(self, rows: Sequence[int], data: memoryview) -> None:
        """Write rows of `row_bytes` bytes each from a buffer.

        Raises:
            OSError: if the disk is full; the rows before are written.
        """
        size = self.row_bytes
        for place, row in enumerate(rows):
            part, done = data[place * size : (place + 1) * size], 0
            while done < size:  # a nearly full disk accepts a part first
                with naming(self.path):
                    done += os.pwrite(self._file, part[done:], row * size + done)

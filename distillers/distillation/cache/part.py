"""Store one feature of the teacher for each view of each image, in fp16 with checksums."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillers.distillation.cache.row_file import RowFile
from distillers.errors import InputError

# For each row: the checksum of its index, exponent and bytes, 0 if the row is empty; and the
# exponent of the power of two that its values are multiplied with.
RECORD = np.dtype([("checksum", "<u4"), ("exponent", "<i4")])
ORDINARY = (-8, 15)  # exponents of the largest value of a row for which fp16 needs no scaling
LARGEST = 15  # exponent that the others are scaled to: below 32,768
EXPONENTS = (-120, 113)  # of the scale; covers fp32 except for its smallest values
BIAS = 128  # added to an exponent to store it in a byte above 0
CHUNK = 65536  # records that are read at once in a pass over all


class Part:
    """A file with one row of fp16 values for each view, and a file of their checksums.

    A row is written before its checksum, so that a killed process leaves it valid or empty. The
    checksum is verified when a process reads a row for the first time, and a row that does not
    match counts as empty. This takes one byte of memory for each row.

    Args:
        folder: of the two files.
        name: of the files, without suffix.
        shape: of one row, (c, h, w) or (d,). Maps are stored as (h, w, c) and returned in
            channels-last memory format.
        num_rows: number of rows that may be read or written.
        read_only: open the files for reading only.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        shape: tuple[int, ...],
        num_rows: int,
        read_only: bool = False,
    ) -> None:
        self.name = name
        self.shape = shape
        self.size = int(np.prod(shape))
        self._data = RowFile(folder / f"{name}.f16", 2 * self.size, read_only)
        self._records = RowFile(folder / f"{name}.rows", RECORD.itemsize, read_only)
        self._known = np.zeros(num_rows, dtype=np.uint8)  # exponent + BIAS of rows seen valid
        self.num_damaged = 0

    @property
    def disk_bytes(self) -> int:
        """Bytes that both files take on the disk."""
        return self._data.disk_bytes + self._records.disk_bytes

    def present(self, rows: np.ndarray) -> np.ndarray:
        """Return whether each row is filled and valid, (n,) bool for indices (n,) int64."""
        new = rows[self._known[rows] == 0]
        if len(new):
            records = self._records_of(new)
            filled = records["checksum"] != 0
            new, records = new[filled], records[filled]
            valid = self._are_valid(new, records)
            self._known[new[valid]] = records["exponent"][valid] + BIAS
        return self._known[rows] != 0

    def read(self, rows: np.ndarray, device: torch.device) -> Tensor:
        """Return rows as (n, *shape) float32 on `device`; all must be `present`."""
        half = torch.empty(
            len(rows), self.size, dtype=torch.float16, pin_memory=device.type == "cuda"
        )
        self._data.read(rows.tolist(), _bytes(half.numpy()))
        values = half.to(device, non_blocking=True).float()
        exponents = self._known[rows].astype(np.int32) - BIAS
        if exponents.any():
            values = torch.ldexp(values, torch.from_numpy(exponents).to(device)[:, None])
        if len(self.shape) != 3:
            return values.view(-1, *self.shape)
        channels, height, width = self.shape
        return values.view(-1, height, width, channels).permute(0, 3, 1, 2)

    def write(self, rows: np.ndarray, values: Tensor) -> None:
        """Fill rows (n,) int64 that are empty or damaged with values (n, *shape) of any device.

        The caller must hold the lock of the folder.

        Raises:
            InputError: if a value is not finite.
            OSError: if the disk is full; the rows written before are valid.
        """
        _, places = np.unique(rows, return_index=True)
        places = places[~self.present(rows[places])]
        if not len(places):
            return
        rows = rows[places]
        self.num_damaged += int(np.count_nonzero(self._records_of(rows)["checksum"]))
        half, exponents = to_half(values[torch.from_numpy(places).to(values.device)])
        data = _bytes(half.numpy())
        records = np.empty(len(rows), dtype=RECORD)
        records["exponent"] = exponents
        records["checksum"] = self._checksums(rows, exponents, data)
        self._data.write(rows.tolist(), data)
        self._records.write(rows.tolist(), _bytes(records))
        self._known[rows] = exponents + BIAS

    def num_filled(self) -> int:
        """Return the number of rows that are not empty."""
        chunks = (records for _, records in self._record_chunks())
        return sum(int(np.count_nonzero(records["checksum"])) for records in chunks)

    def check(self) -> tuple[int, list[int]]:
        """Return the number of rows that are not empty, and the indices of the damaged ones."""
        count, damaged = 0, []
        for start, records in self._record_chunks():
            rows = np.arange(start, start + len(records))
            filled = records["checksum"] != 0
            rows, records = rows[filled], records[filled]
            damaged += rows[~self._are_valid(rows, records)].tolist()
            count += len(rows)
        return count, damaged

    def empty(self, rows: list[int]) -> None:
        """Delete the checksums of rows, so that they are computed again."""
        self._records.write(rows, memoryview(bytes(RECORD.itemsize * len(rows))))
        self._known[rows] = 0

    def _record_chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the records of all rows in chunks, each with the index of its first row."""
        reached = min(len(self._records), len(self._known))
        for start in range(0, reached, CHUNK):
            records = np.empty(min(CHUNK, reached - start), dtype=RECORD)
            self._records.read_range(start, _bytes(records))
            yield start, records

    def _records_of(self, rows: np.ndarray) -> np.ndarray:
        records = np.empty(len(rows), dtype=RECORD)
        self._records.read(rows.tolist(), _bytes(records))
        return records

    def _are_valid(self, rows: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Return whether the checksum of each row matches, (n,) bool."""
        valid = np.zeros(len(rows), dtype=bool)
        step = max(1, 2**24 // self._data.row_bytes)  # rows that are read at once
        buffer = memoryview(bytearray(min(step, len(rows)) * self._data.row_bytes))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            self._data.read(rows[some].tolist(), buffer)
            sums = self._checksums(rows[some], records["exponent"][some], buffer)
            valid[some] = sums == records["checksum"][some]
        return valid

    def _checksums(self, rows: np.ndarray, exponents: np.ndarray, data: memoryview) -> np.ndarray:
        size = self._data.row_bytes
        sums = np.empty(len(rows), dtype=np.uint32)
        pairs = zip(rows.tolist(), exponents.tolist(), strict=True)
        for place, (row, exponent) in enumerate(pairs):
            start = zlib.crc32(struct.pack("<qi", row, exponent))
            sums[place] = zlib.crc32(data[place * size : (place + 1) * size], start) or 1
        return sums


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@torch.no_grad()
def to_half(values: Tensor) -> tuple[Tensor, np.ndarray]:
    """Convert rows (n, d) or (n, c, h, w) to fp16 with a power of two as the scale of each.

    The scale is 1 unless the largest value of the row is too large for fp16, or so small that
    digits would be lost.

    Returns:
        (n, size) float16 on the CPU, maps as (h, w, c), and (n,) int32 exponents of the scales.

    Raises:
        InputError: if a value is not finite.
    """
    if values.ndim == 4:
        values = values.permute(0, 2, 3, 1)
    flat = values.reshape(len(values), -1).float()
    peak = flat.abs().amax(1)
    if not bool(peak.isfinite().all()):
        raise InputError(
            "the teacher returned values that are not finite for "
            f"{int((~peak.isfinite()).sum())} of {len(peak)} images; nothing of them was stored."
        )
    exponent = torch.frexp(peak).exponent
    low, high = ORDINARY
    ordinary = (peak == 0) | ((exponent > low) & (exponent <= high))
    by = torch.where(ordinary, 0, (exponent - LARGEST).clamp(*EXPONENTS)).int()
    half = torch.ldexp(flat, -by[:, None]).half()
    return half.cpu().contiguous(), by.cpu().numpy()

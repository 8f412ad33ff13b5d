"""Resident memory against the size of a teacher cache, all of which is read.

    python benchmarks/cache.py

What a step costs that reads a cache is measured by `speed.py`. Writes
`benchmarks/results/cache.json`.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from distillers.distillation.cache.folder import CacheFolder
from distillers.training.loggers import environment

RESULT = Path(__file__).parent / "results" / "cache.json"
KEY = {"format": 1, "teacher": {"model": "any"}, "data": {"name": "random", "images": 1}}
SHAPE = (256, 8, 8)  # the last map of resnet32x4


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 16_000])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    rows = [measure_growth(num_rows) for num_rows in args.rows]
    for row in rows:
        print(f"{row['file_mb']:.0f} MB read; resident memory grew by {row['grown_mb']:.1f} MB")
    content = {"environment": environment(), "memory": rows}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


def measure_growth(num_rows: int) -> dict[str, float]:
    """Return the size of a cache of so many rows, and the memory that reading all of it adds."""
    with tempfile.TemporaryDirectory() as folder:
        part = CacheFolder(Path(folder), KEY).part("map", {"shape": list(SHAPE)}, num_rows)
        values = torch.randn(100, *SHAPE)
        for rows in torch.arange(num_rows).split(100):
            part.write(rows.numpy(), values)
        before = resident_mb()
        for rows in torch.randperm(num_rows).split(100):
            part.present(rows.numpy())
            part.read(rows.numpy(), torch.device("cpu"))
        return {"file_mb": part.disk_bytes / 1e6, "grown_mb": resident_mb() - before}


def resident_mb() -> float:
    """Return the resident memory of this process in MB, including mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()

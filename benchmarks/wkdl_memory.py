"""Peak memory of the loss WKDL, forward and backward, at ImageNet's size.

    python benchmarks/wkdl_memory.py   # 41 to 75 MiB in two runs

The peak is that of this process above what it had before the step. Linux only.
"""

from pathlib import Path

import torch
from torch import nn

from distillers.losses import WKDL

CLASSES, BATCH = 1000, 256


def peak_mib() -> float:
    """The largest resident set of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    torch.manual_seed(0)
    loss = WKDL(nn.Linear(64, CLASSES), temperature=2.0, gamma=30.0)
    student = torch.randn(BATCH, CLASSES, requires_grad=True)
    labels = torch.randint(CLASSES, (BATCH,))
    before = peak_mib()
    loss(student, torch.randn(BATCH, CLASSES), labels, 0.0).backward()
    print(f"{peak_mib() - before:,.0f} MiB at {CLASSES:,} classes and a batch of {BATCH}")


if __name__ == "__main__":
    main()

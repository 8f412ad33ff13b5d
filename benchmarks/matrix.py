"""Measure the rates of matrix products and copies on a device, upper bounds for a step.

python benchmarks/matrix.py --device cuda
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from distillers.timing import time_interleaved
from distillers.training.loggers import environment


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        one, other = (torch.randn(args.side, args.side, device=device).to(dtype) for _ in range(2))
        runs = {"product": lambda one=one, other=other: one @ other, "copy": one.clone}
        seconds = time_interleaved(runs, args.rounds, device, warm_up=2)
        product, copy = (statistics.median(seconds[name]) for name in ("product", "copy"))
        name = str(dtype).removeprefix("torch.")
        found[name] = {
            "tflops": 2 * args.side**3 / product / 1e12,
            "gb_per_s": 2 * one.nbytes / copy / 1e9,
        }
        print(name, {key: round(value, 2) for key, value in found[name].items()}, flush=True)
    if args.out:
        content = {"side": args.side, "environment": environment(), "results": found}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

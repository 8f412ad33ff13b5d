"""Check that `--dali cpu|gpu` gives the same images as training without it, and time both.

    python benchmarks/dali_check.py gpu [--data_dir PHOTOS] [--num_workers 8] [--image_size 224]

`PHOTOS` is laid out as for `--dataset folder`; left out, it is 800 JPEGs made here. Both ways read
two epochs. The order, the labels and the rows must be the same, the pixels within `LIMIT` grey
levels on average. The exit status is 1 where they are not.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from distillers.data import DecodeOptions, source_of
from distillers.data.normalization import IMAGENET_STD as STD
from distillers.data.source import BatchLoader
from distillers.errors import InputError

LIMIT = 1.0  # mean absolute difference of a batch in grey levels; 0.12 on the CPU
BATCH_SIZE = 64


def main() -> int:
    """Compare, print, and return 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", choices=["cpu", "gpu"])
    parser.add_argument("--data_dir")
    parser.add_argument("--images", type=int, default=800, help="without --data_dir")
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=224)
    args = parser.parse_args()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        if args.data_dir is None:
            beside = importlib.import_module("folder")  # the script beside this one
            beside.write_images(Path(scratch), args.images)
        root = args.data_dir or scratch
        loaders = [
            source_of(
                "folder",
                root,
                reading=DecodeOptions(
                    image_size=args.image_size,
                    num_workers=args.num_workers,
                    on_bad_image="skip",
                    val_fraction=0.1,
                    dali=dali,
                ),
            ).train_loader(BATCH_SIZE, seed=0, drop_last=False, device=device)
            for dali in (None, args.where)
        ]
        means, largest = [], 0.0
        for number in (1, 2):
            for ours, theirs in zip(*(loader.epoch(number) for loader in loaders), strict=True):
                if not torch.equal(ours.index, theirs.index):
                    print(f"FAILED: rows {ours.index.tolist()} and {theirs.index.tolist()}")
                    return 1
                different = difference_in_levels(ours.images, theirs.images)
                means.append(float(different.mean()))
                largest = max(largest, float(different.max()))
        speeds = [speed(loader, 3) for loader in loaders]
    print(f"mean difference {sum(means) / len(means):.3f} grey levels, of a batch at most", end=" ")
    print(f"{max(means):.3f}, of a pixel at most {largest:.0f}")
    print(f"images a second: {speeds[0]:,.0f} without, {speeds[1]:,.0f} with --dali {args.where}")
    good = max(means) < LIMIT
    print("passed" if good else f"FAILED: more than {LIMIT} grey levels")
    return 0 if good else 1


def difference_in_levels(one: Tensor, other: Tensor) -> Tensor:
    """Return the differences of normalized images in grey levels of 1 / 255."""
    return (one - other).abs() * 255 * torch.tensor(STD, device=one.device).view(3, 1, 1)


def speed(loader: BatchLoader, number: int) -> float:
    """Return the images per second of one epoch, with their transfer to the device."""
    start = time.perf_counter()
    count = sum(len(batch.labels) for batch in loader.epoch(number))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")

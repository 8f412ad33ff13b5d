"""Images per second from folders: our two pipelines against torchvision's usual one.

    python benchmarks/data.py --folder [--rounds 5] [--workers 2]

All read the same 2,000 JPEGs of 500 x 375, made here, cut out a random part and resize it to
224 x 224, flip one image in two, and normalise in float32 at batch 64. The usual one is PIL's
`ImageFolder` with `RandomResizedCrop(224)`, `RandomHorizontalFlip`, `ToTensor`, `Normalize` in a
`DataLoader` with persistent workers. Ours with `--dali cpu` takes part where NVIDIA DALI is
installed. They take turns, an epoch each, after one that warms up.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from distillers.config.data import Dali
from distillers.data import DecodeOptions, source_of
from distillers.data.normalization import IMAGENET_MEAN as MEAN
from distillers.data.normalization import IMAGENET_STD as STD

USUAL = "torchvision, PIL"
NUM_IMAGES, NUM_CLASSES, BATCH_SIZE = 2000, 10, 64
RESULT = Path(__file__).parent / "results" / "folder.json"


def compare(rounds: int, workers: int, images: int, out: Path) -> None:
    """Measure all, print and write the result."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch), images)
        usual = pil_loader(Path(scratch), workers)
        epochs: dict[str, Callable[[int], Iterable]] = {USUAL: lambda _: usual}
        epochs["distillers"] = our_epochs(scratch, workers, None)
        if is_installed("nvidia.dali"):
            epochs["distillers, DALI"] = our_epochs(scratch, workers, "cpu")
        found: dict[str, list[float]] = {name: [] for name in epochs}
        for number in range(1, rounds + 2):
            for name, epoch in epochs.items():
                found[name].append(measure_speed(epoch(number)))
    kept = {name: speeds[1:] for name, speeds in found.items()}
    medians = {name: statistics.median(speeds) for name, speeds in kept.items()}
    ratios = {name: round(median / medians[USUAL], 2) for name, median in medians.items()}
    for name, speeds in kept.items():
        print(
            f"{name:20}{medians[name]:8,.0f} images/s ({min(speeds):,.0f}-{max(speeds):,.0f}), "
            f"{ratios[name]:.2f} times the usual"
        )
    content = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "workers": workers,
        "load_before": round(load_before, 1),
        "ratios": ratios,
        "images_per_second": {n: [round(s) for s in speeds] for n, speeds in kept.items()},
    }
    out.write_text(json.dumps(content, indent=2) + "\n")


def our_epochs(root: str, workers: int, dali: Dali) -> Callable[[int], Iterable]:
    """Return a function from the number of an epoch to its batches."""
    source = source_of("folder", root, reading=DecodeOptions(num_workers=workers, dali=dali))
    loader = source.train_loader(BATCH_SIZE, seed=0, drop_last=False, device=torch.device("cpu"))
    return loader.epoch


def is_installed(module: str) -> bool:
    """Return whether an extra is installed."""
    parent = module.partition(".")[0]
    return find_spec(parent) is not None and find_spec(module) is not None


def write_images(root: Path, count: int) -> None:
    """Write JPEGs of about 60 kilobytes, which take as long to decode as photographs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        image = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        parts = ("train", "val") if number < NUM_CLASSES else ("train",)
        for part in parts:
            folder = root / part / f"class{number % NUM_CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number:04}.jpg", quality=85)


def pil_loader(root: Path, workers: int) -> DataLoader:
    """Return torchvision's usual loader of images in folders."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(
        datasets.ImageFolder(str(root / "train"), transform),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def measure_speed(batches: Iterable) -> float:
    """Return the images per second of one epoch."""
    start = time.perf_counter()
    count = sum(len(labels) for _, labels, *_ in batches)
    return count / (time.perf_counter() - start)

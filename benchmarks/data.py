"""Images per second: our in-memory loader against the usual torchvision pipeline.

    python benchmarks/data.py [--data_dir ./data] [--rounds 7] [--folder]

Both crop from four black pixels around, flip, and normalise 32x32 images in float32 at batch 64.
The usual one is a `Dataset` of PIL images with `RandomCrop(32, padding=4)`,
`RandomHorizontalFlip`, `ToTensor`, `Normalize`, in a `DataLoader` with persistent workers that are
running before the clock starts. Epochs are interleaved, so that other load affects both.

If other programs use the same cores, compare the second column: images per second of CPU time,
which is given for pipelines in one thread of one process.
"""

import argparse
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from distillers.data import Loader, load

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH_SIZE = 64
NUM_USUAL = 10_000  # images of the slower pipeline in an epoch
RESULT = Path(__file__).parent / "results" / "data.json"


class Speed(NamedTuple):
    """Images per second of wall-clock time and of CPU time."""

    wall: float
    core: float


class PilImages(Dataset[tuple[Tensor, int, int]]):
    """A data set of PIL images with transforms, as in most repositories."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index], index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="take the real CIFAR-10 from here; else random bytes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, help="an epoch of the usual pipeline, or JPEGs")
    parser.add_argument("--folder", action="store_true", help="JPEGs in folders; see folder.py")
    parser.add_argument("--workers", type=int, default=2, help="with --folder")
    parser.add_argument("--out", type=Path, help="default: data.json or folder.json")
    given = parser.parse_args()
    if given.folder:
        folder = importlib.import_module("folder")
        images, out = given.images or folder.NUM_IMAGES, given.out or folder.RESULT
        folder.compare(given.rounds, given.workers, images, out)
        return
    num_usual = given.images or NUM_USUAL
    images, labels = _load_images(given.data_dir)
    threads, load_before = torch.get_num_threads(), os.getloadavg()[0]
    ours = {
        "distillers, batch 64": _loader(images, labels),
        "distillers, batch 64, one thread": _loader(images, labels),
        "distillers, batch 64, channels_last": _loader(images, labels, channels_last=True),
        "distillers, batch 256": _loader(images, labels, batch_size=256),
        "distillers, batch 64, evaluation": _loader(images, labels, train=False),
    }
    usual = {
        "torchvision, PIL, 2 workers, batch 64": _torchvision_loader(
            images, labels, num_usual, workers=2
        ),
        "torchvision, PIL, one thread, batch 64": _torchvision_loader(
            images, labels, num_usual, workers=0
        ),
    }
    found: dict[str, list[Speed]] = {key: [] for key in (*usual, *ours)}
    for number in range(1, given.rounds + 2):
        for key, speeds in found.items():
            torch.set_num_threads(1 if "one thread" in key else threads)
            if key in usual:
                speeds.append(
                    _measure_speed(lambda key=key: usual[key], lambda batch: len(batch[1]))
                )
            else:
                epoch = _epoch(ours[key], number)
                speeds.append(_measure_speed(epoch, lambda batch: len(batch.labels)))
    counted = {key: speeds[1:] for key, speeds in found.items()}  # the first warms up
    what = "CIFAR-10" if given.data_dir else "random bytes, 50,000 x 3 x 32 x 32"
    _write_results(counted, what, load_before, given.out or RESULT)


def _load_images(data_dir: str | None) -> tuple[Tensor, Tensor]:
    if data_dir:
        real = load("cifar10", data_dir, download=False)
        return real.train_images, real.train_labels
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50000, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return images, torch.arange(50000) % 10


def _torchvision_loader(images: Tensor, labels: Tensor, num: int, workers: int) -> DataLoader:
    return DataLoader(
        PilImages(images[:num], labels[:num]),
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def _loader(
    images: Tensor,
    labels: Tensor,
    batch_size: int = BATCH_SIZE,
    train: bool = True,
    channels_last: bool = False,
) -> Loader:
    return Loader(
        images,
        labels,
        batch_size=batch_size,
        mean=MEAN,
        std=STD,
        augment=train,
        shuffle=train,
        drop_last=train,
        channels_last=channels_last,
    )


def _epoch(loader: Loader, number: int) -> Callable[[], Iterable]:
    return lambda: loader.epoch(number)


def _measure_speed(batches: Callable[[], Iterable], size: Callable) -> Speed:
    """Return the images per second of one epoch, from its start to its last batch."""
    start, work = time.perf_counter(), time.process_time()
    num = sum(size(batch) for batch in batches())
    return Speed(num / (time.perf_counter() - start), num / (time.process_time() - work))


def _write_results(found: dict[str, list[Speed]], what: str, load_before: float, out: Path) -> None:
    rows = {}
    print(f"{'':40} {'images/s':>10} {'lowest':>10} {'highest':>10} {'images/core s':>14}")
    for key, speeds in found.items():
        wall = [speed.wall for speed in speeds]
        core = statistics.median(speed.core for speed in speeds) if "one thread" in key else None
        rows[key] = {
            "median": round(statistics.median(wall)),
            "rounds": [round(value) for value in wall],
            "per_core_second": core and round(core),
        }
        print(
            f"{key:40} {rows[key]['median']:10,} {min(wall):10,.0f} {max(wall):10,.0f} "
            f"{f'{core:,.0f}' if core else '':>14}"
        )
    content = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 1),
        "data": what,
        "images_per_second": rows,
    }
    out.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()

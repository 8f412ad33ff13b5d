"""Speed of augmentation: batches of images in memory, and whole epochs with and without it.

    OMP_NUM_THREADS=1 python benchmarks/augment.py memory
    python benchmarks/augment.py steps
    python benchmarks/augment.py folder --data_dir photos --workers 2

`memory`: images/s of RandAugment and others on 32 x 32 images in memory, as this library applies
them to groups of images, and as torchvision and timm apply them to each image. `steps`: CPU time
of loading with mixup and CutMix, and with others, and of the training step that follows. `folder`:
images/s of a whole epoch of KD at 224 pixels with RandAugment divided by those without, with worker
processes; without --data_dir it writes noisy photographs to a temporary folder. Everything is
interleaved, so that other load affects all alike; with --cpu_time the CPU seconds of the training
process are compared, without those of the workers, which do the same in both. Medians of the rounds
go to `benchmarks/results/augment.json`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import v2

from distillers import data, models
from distillers.config.augmentation import Augmentation, parse_policy
from distillers.config.data import DecodeOptions, SoftLabels
from distillers.data.augment.augmenter import Augmenter
from distillers.data.augment.named import build_policy
from distillers.data.datasets.images import ImageSet
from distillers.data.loaders.mixing import SoftLabelLoader
from distillers.data.source import BatchLoader
from distillers.distillation.build import distil
from distillers.timing import LoadMeter, time_interleaved
from distillers.training.memory import reuse_freed_memory
from distillers.training.trainer import Hyperparameters, Trainer

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
MEAN = (0.5, 0.5, 0.5)
NUM = 512  # images that the loader in memory makes at once
TIMM = "rand-m9-inc1"  # with mstd0.5 timm asks PIL for 0 bits now and then, which is an error
OURS = [TIMM, f"{TIMM}-p1", "original", "trivial", "augmix-m5-w4-d2", "fixmatch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "steps", "folder"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data_dir", help="a folder of images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpu_time", action="store_true", help="of this process, where it is busy")
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/augment.json"))
    args = parser.parse_args()
    reuse_freed_memory()  # as every run does
    meter = LoadMeter()
    measure = {"memory": in_memory, "steps": steps, "folder": in_folder}[args.what]
    found = measure(args)
    found["busy_cores"] = round(meter.busy_cores() or 0, 2)
    found["device"] = args.device
    print(json.dumps(found, indent=1))
    out = Path(args.out)
    content = json.loads(out.read_text()) if out.exists() else {}
    key = args.what if args.device == "cpu" else f"{args.what} {args.device}"
    key += ", CPU time" if args.cpu_time else ""
    out.write_text(json.dumps(content | {key: found}, indent=1) + "\n")


def medians(runs: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict:
    seconds = time_interleaved(runs, rounds, device)
    return {name: statistics.median(each) for name, each in seconds.items()}


def clock_of(args: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if args.cpu_time else time.perf_counter


def photographs(num: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(256, (num, 3, 8, 8), generator=generator).float()
    images = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic")
    return images.clamp(0, 255).to(torch.uint8)


def in_memory(args: argparse.Namespace) -> dict:
    """Return images/s of each policy, and what it is of the per-image way."""
    device = torch.device(args.device)
    images = photographs(NUM, 32)
    there, rows = images.to(device), torch.arange(NUM)
    epoch = iter(range(1, 10**9))

    def ours(text: str) -> Callable[[], object]:
        policy = build_policy(parse_policy(text))
        augmenter = Augmenter(policy, MEAN, seed=0, stream=0, device=device)
        return lambda: augmenter(there, rows, torch.full_like(rows, next(epoch)))

    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    each, pil = v2.RandAugment(2, 9), rand_augment_transform(TIMM, {"img_mean": (128,) * 3})
    runs = {text: ours(text) for text in OURS}
    runs["torchvision, image by image"] = lambda: [each(image) for image in images]
    runs["torchvision, PIL, image by image"] = lambda: [each(image) for image in pictures]
    runs["timm, image by image"] = lambda: [np.asarray(pil(image)) for image in pictures]
    speeds = {name: round(NUM / s) for name, s in medians(runs, args.rounds, device).items()}
    return {
        "images_per_second": speeds,
        **{
            f"two operations, over {name}": round(speeds[f"{TIMM}-p1"] / speeds[name], 2)
            for name in ("torchvision, image by image", "torchvision, PIL, image by image")
        },
        "with timm's probabilities, over timm": round(
            speeds[TIMM] / speeds["timm, image by image"], 2
        ),
    }


def trainer(student: str, teacher: str, side: int, *, soft: bool, num_classes: int = 10) -> Trainer:
    torch.manual_seed(0)
    first, second = (
        models.create(name, num_classes=num_classes, image_size=side) for name in (student, teacher)
    )
    weights = {"softce" if soft else "ce": 1.0, "kd": 1.0}
    task = distil(first, second, weights, images=torch.zeros(2, 3, side, side))
    return Trainer(task.train(), Hyperparameters(1, learning_rate=1e-3))


def epoch_of(made: Trainer, loader: BatchLoader) -> Callable[[], object]:
    def run() -> None:
        for number, batch in enumerate(loader.epoch(1), 1):
            made.training_step(batch, 0.0, number)

    return run


def steps(args: argparse.Namespace) -> dict:
    """Return CPU milliseconds of a batch with each augmentation, and of a step of KD."""
    images, labels = photographs(NUM, 32), torch.arange(NUM) % 10
    names = tuple(map(str, range(10)))
    source = ImageSet("random", images, labels, images, labels, MEAN, MEAN, names, True)

    def least(run: Callable[[], object], rounds: int) -> float:
        run()
        return 1000 * min(time_interleaved({0: run}, rounds, CPU, clock=time.process_time)[0])

    def load(options: Augmentation, *, mixed: bool = False) -> float:
        loader: BatchLoader = source.augmented(options).train_loader(
            64, seed=0, drop_last=True, device=CPU
        )
        if mixed:
            mixing = SoftLabels(mixup=0.2, cutmix=1.0)
            loader = SoftLabelLoader(loader, mixing, num_classes=10, seed=0, num_epochs=1)
        return least(lambda: list(loader.epoch(1)), args.rounds) / len(loader)

    plain = load(Augmentation())
    made = trainer("resnet8x4", "resnet32x4", 32, soft=True)
    batch = next(source.train_loader(64, seed=0, drop_last=True, device=CPU).epoch(1))
    step = least(lambda: made.training_step(batch, 0.0, 1), 3)
    found = {
        "mixup and cutmix": load(Augmentation(), mixed=True),
        TIMM: load(Augmentation(aa=TIMM)),
        "reprob 0.25": load(Augmentation(reprob=0.25)),
    }
    return {
        "ms of a plain batch": round(plain, 2),
        "ms of a step": round(step, 1),
        "ms of a batch": {name: round(ms, 2) for name, ms in found.items()},
        "over the plain step": {
            name: round((step + ms) / (step + plain), 4) for name, ms in found.items()
        },
    }


def in_folder(args: argparse.Namespace) -> dict:
    """Return images/s of an epoch with RandAugment, over that of one without."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(args.data_dir) if args.data_dir else write_photographs(Path(folder))
        reading = DecodeOptions(image_size=224, num_workers=args.workers, val_fraction=0.1)
        source = data.source_of("folder", where, reading=reading)
        made = trainer(
            "timm:mobilenetv3_small_050",
            "timm:mobilenetv3_large_100",
            224,
            soft=False,
            num_classes=source.num_classes,
        )
        runs = {}
        for name, options in (("plain", Augmentation()), (TIMM, Augmentation(aa=TIMM))):
            loader = source.augmented(options).train_loader(
                32, seed=0, drop_last=True, device=torch.device(args.device)
            )
            runs[name] = epoch_of(made, loader)
        seconds = time_interleaved(runs, args.rounds, CPU, clock=clock_of(args))
    ratio = statistics.median(a / b for a, b in zip(seconds["plain"], seconds[TIMM], strict=True))
    return {
        "images": len(source.train_labels),
        "images_per_second": {
            name: round(len(source.train_labels) / statistics.median(each), 1)
            for name, each in seconds.items()
        },
        "with over without": round(ratio, 3),
    }


def write_photographs(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(100):
        pixels = photographs(1, 400)[0].permute(1, 2, 0).numpy().astype(np.int16)
        noisy = np.clip(pixels + rng.integers(-20, 21, pixels.shape), 0, 255).astype(np.uint8)
        path = folder / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)
    return folder


if __name__ == "__main__":
    main()

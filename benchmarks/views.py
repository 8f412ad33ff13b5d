"""Accuracy of a student if each image has only V augmented views, on CIFAR-10.

    python benchmarks/views.py --data_dir data --images 10000 --epochs 10
    python benchmarks/views.py --data_dir data --images 2500 --epochs 40 --views none 16 4 1

KD (CE .1 + KL .9, T 4) from resnet20 to resnet8 on the first images of the training set, batch 64,
rate 0.05 divided by 10 after half and four fifths of the epochs. "none" runs the teacher in every
step; the others read its values from one cache that all runs share, with so many views an image;
"all" sees the very images of "none". The teacher is trained first, on the first 10,000 images.
Everything runs in one thread. Each run's accuracy on the 10,000 test images after the last epoch
goes to `benchmarks/results/views.json` when it ends; runs that are there already are left out.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillers import models
from distillers.data import ImageSet, load
from distillers.distillation.build import distil
from distillers.distillation.cache.folder import CacheFolder, resolve_cache_dir
from distillers.distillation.cache.key import cache_key
from distillers.distillation.cache.loader import CachedTeacherLoader
from distillers.distillation.cache.teacher_cache import (
    TeacherCache,
    cached_tensors,
)
from distillers.distillation.task import Supervised
from distillers.losses import CE
from distillers.training.evaluate import score
from distillers.training.trainer import Hyperparameters, fit

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
BATCH, RATE = 64, 0.05
TEACHER_EPOCHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--work", default="save/views", help="for the teacher and the cache")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--teacher_images", type=int, default=10_000)
    parser.add_argument("--views", nargs="+", default=["none", "all", "16", "4", "1"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/views.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    work, out = Path(args.work), Path(args.out)
    work.mkdir(parents=True, exist_ok=True)
    images = load("cifar10", args.data_dir, download=False)
    content = json.loads(out.read_text()) if out.exists() else {"runs": []}
    known = images.keep(torch.arange(args.teacher_images))
    teacher = load_or_train_teacher(known, work / "teacher.pt", TEACHER_EPOCHS)
    content["teacher"] = accuracy(teacher, images)
    few = images.keep(torch.arange(args.images))
    for seed in args.seeds:
        for views in args.views:
            asked = {"images": args.images, "epochs": args.epochs, "views": views, "seed": seed}
            if any(asked.items() <= run.items() for run in content["runs"]):
                continue
            run = asked | train_student(few, teacher, args.epochs, views, seed, work / "cache")
            print(run, flush=True)
            content["runs"].append(run)
            out.write_text(json.dumps(content, indent=1) + "\n")
    print_table(content["runs"])


def build_hparams(epochs: int) -> Hyperparameters:
    milestones = (epochs // 2, epochs * 4 // 5)
    return Hyperparameters(epochs=epochs, learning_rate=RATE, milestones=milestones)


def load_or_train_teacher(images: ImageSet, path: Path, epochs: int) -> nn.Module:
    """Return a resnet20, read from `path` if an earlier process has trained it."""
    torch.manual_seed(0)
    net = models.create("resnet20", num_classes=10).to(memory_format=torch.channels_last)
    if not path.exists():
        loader = images.train_loader(BATCH, seed=0, drop_last=False, device=CPU)
        hparams = build_hparams(epochs)
        fit(
            Supervised(net, CE()),
            loader,
            hparams,
            evaluate=lambda _: {},
            on_epoch_end=lambda *_: None,
        )
        torch.save(net.state_dict(), path)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def train_student(
    images: ImageSet, teacher: nn.Module, epochs: int, views: str, seed: int, where: Path
) -> dict[str, Any]:
    """Train a student and return its accuracy and the number of teacher forwards."""
    torch.manual_seed(seed)
    net, sample = models.create("resnet8", num_classes=10), images.sample(CPU)
    task = distil(net, teacher, {"ce": 0.1, "kd": 0.9}, images=sample)
    task.to(memory_format=torch.channels_last)
    asked = None if views == "none" else "all" if views == "all" else int(views)
    loader = images.train_loader(BATCH, seed=seed, drop_last=False, device=CPU, views=asked)
    cache = None
    if asked is not None:
        key = cache_key(teacher, "resnet20", images)
        num_rows = len(images.train_labels) * ((images.num_crops or 0) if asked == "all" else asked)
        reads = cached_tensors(task, sample)
        cache = TeacherCache(CacheFolder(resolve_cache_dir(where, key), key), task, reads, num_rows)
        loader = CachedTeacherLoader(loader, cache)
    last: dict[str, float] = {}
    fit(
        task,
        loader,
        build_hparams(epochs),
        evaluate=lambda _: {},
        on_epoch_end=lambda row, *_: last.update(row),
    )
    ran = cache.num_computed if cache else epochs * len(images.train_labels)
    found = {"test_acc": accuracy(net, images), "train_loss": last["train_loss"]}
    return {**found, "teacher_images": ran}


def accuracy(net: nn.Module, images: ImageSet) -> float:
    return score(net, images.test_loader(CPU).epoch(1)).acc


def print_table(runs: list[dict[str, Any]]) -> None:
    groups: dict[tuple, list[float]] = {}
    for run in runs:
        groups.setdefault((run["images"], run["epochs"], run["views"]), []).append(run["test_acc"])
    for (images, epochs, views), found in groups.items():
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        print(
            f"{images:>6} images {epochs:>3} epochs {views:>5} views: "
            f"{statistics.mean(found):.2f} +- {spread:.2f} (n = {len(found)})"
        )


if __name__ == "__main__":
    main()

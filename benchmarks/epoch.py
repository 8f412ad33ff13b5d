"""Time a training epoch against its bare steps and against a plain training loop.

    python benchmarks/epoch.py                          # resnet32x4 -> resnet8x4, KD, batch 64
    python benchmarks/epoch.py --gpu_id 0 --batches 200 --compile --precision bf16 --rounds 10

Epochs of three kinds are interleaved: ours, as the command runs it (loader, metrics, progress bar,
records and checkpoints, without evaluation); its bare steps, on one batch on the device; and a
plain loop with an unmodified teacher, in eager mode and fp32, on batches of torchvision's PIL
pipeline from worker processes. Images are random bytes.
Writes `benchmarks/results/epoch.json`.
"""

import argparse
import importlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from distillers import models
from distillers.config.hyperparameters import Hyperparameters
from distillers.config.student import StudentConfig
from distillers.data import ImageSet
from distillers.data.batch import Batch
from distillers.distributed.rendezvous import device_of
from distillers.distributed.world import World
from distillers.timing import synchronize
from distillers.training.benchmark import BenchmarkSetup, build_task
from distillers.training.loggers import environment
from distillers.training.memory import reuse_freed_memory
from distillers.training.recorder import open_recorder
from distillers.training.run_dir import resolve_run_dir
from distillers.training.state import TrainState
from distillers.training.trainer import Trainer, fit

data = importlib.import_module("data")  # beside this file

RESULTS = Path(__file__).parent / "results"
OURS, BARE, USUAL = "whole epoch", "bare steps", "plain steps, PIL loader"
SCORES = {"test_loss": 0.0, "test_acc": 0.0, "test_acc_top5": 0.0}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--method", default="kd")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40, help="an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the PIL loader")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--gpu_id")
    parser.add_argument("--out", type=Path, default=RESULTS / "epoch.json")
    args = parser.parse_args()
    reuse_freed_memory()
    device = device_of((args.gpu_id,) if args.gpu_id else ())
    found = measure(args, device)
    ratios = {
        f"{OURS} / {name}": [
            one / other for one, other in zip(found[OURS], found[name], strict=True)
        ]
        for name in (BARE, USUAL)
    }
    for name, values in (found | ratios).items():
        print(f"{name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    content = {"settings": settings, "environment": environment()}
    content |= {"seconds": found, "ratios": ratios}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of every epoch of each kind, without the first."""
    images = random_images(args.batch * args.batches)
    setup = BenchmarkSetup(
        partial(models.create, args.student, num_classes=100),
        partial(models.create, args.teacher, num_classes=100),
        batch_size=args.batch,
        num_images=len(images.train_labels),
        device=device,
    )
    hparams = Hyperparameters(
        epochs=args.rounds + 1, learning_rate=1e-3, compile=args.compile, precision=args.precision
    )
    bare = Trainer(build_task(setup, args.method).train(), hparams)
    usual = Trainer(
        build_task(setup, args.method, unoptimized=True).train(),
        Hyperparameters(epochs=1, learning_rate=1e-3),
    )
    pil = DataLoader(
        data.PilImages(images.train_images, images.train_labels),
        batch_size=args.batch,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=device.type == "cuda",
    )
    others = {
        BARE: lambda: run_bare_epoch(bare, setup.batch(), args.batches),
        USUAL: lambda: run_usual_epoch(usual, pil, device),
    }
    found: dict[str, list[float]] = {name: [] for name in (OURS, *others)}

    def after_epoch(row: dict[str, float]) -> None:
        """Record the time of our epoch, then run an epoch of each other kind."""
        synchronize(device)
        took = {OURS: time.perf_counter() - began[0]}
        took |= {name: time_call(run, device) for name, run in others.items()}
        if row["epoch"] > 1:
            for name, value in took.items():
                found[name].append(value)
        began[0] = time.perf_counter()

    began = [0.0]
    with tempfile.TemporaryDirectory() as folder:
        config = StudentConfig(
            model_s=args.student, epochs=hparams.epochs, save_dir=folder, path_t="none", save_freq=0
        )
        run_dir = resolve_run_dir(Path(folder) / "run", args.student, config, World())
        task = build_task(setup, args.method)
        loader = images.train_loader(args.batch, seed=0, drop_last=False, device=device)
        with open_recorder(
            config, run_dir, {"model": args.student}, hparams, len(loader), 0
        ) as recorder:

            def keep(row: dict[str, float], state: TrainState, net: nn.Module) -> None:
                recorder.on_epoch_end(row, state, net)
                after_epoch(row)

            began[0] = time.perf_counter()
            fit(
                task,
                loader,
                hparams,
                evaluate=lambda _: dict(SCORES),
                on_epoch_end=keep,
                on_log=recorder.progress.batch,
            )
    return found


def random_images(count: int) -> ImageSet:
    """Return random bytes in the shape of CIFAR-100."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(count) % 100
    return ImageSet(
        name="cifar100",
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:100],
        test_labels=labels[:100],
        class_names=tuple(map(str, range(100))),
        mean=data.MEAN,
        std=data.STD,
        flip=True,
    )


def run_bare_epoch(trainer: Trainer, batch: Batch, batches: int) -> None:
    for _ in range(batches):
        trainer.backward(batch, 0.0)
        trainer.optimizer_step()


def run_usual_epoch(trainer: Trainer, loader: DataLoader, device: torch.device) -> None:
    for images, labels, index in loader:
        there = (each.to(device, non_blocking=True) for each in (images, labels, index))
        trainer.backward(Batch(*there), 0.0)
        trainer.optimizer_step()


def time_call(run: Callable[[], None], device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""Cost of a distributed step beyond DistributedDataParallel of the same networks.

    python benchmarks/ranks.py --processes 2 --out benchmarks/results/ranks.json

Each process takes its part of a batch of resnet32x4 to resnet8x4. Our step (gathers, memories that
are equal, averaged running statistics) and a plain one, whose losses use the images of one process,
are interleaved; the result is the median over rounds of the ratio of the two.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from distillers import models
from distillers.config.hyperparameters import Hyperparameters
from distillers.data.batch import Batch
from distillers.distillation import recipes
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distributed import collectives as ranks
from distillers.distributed.world import World
from distillers.training.ddp import WITHOUT_BUFFERS
from distillers.training.loggers import environment
from distillers.training.trainer import Trainer

CLASSES, IMAGES = 100, 50_000
HPARAMS = Hyperparameters(epochs=1, learning_rate=1e-3)


def main() -> None:
    """Measure every method, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="images of all processes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--methods", nargs="*", default=recipes.ELEVEN)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(args, f"{folder}/store"), nprocs=args.processes)


def run_rank(rank: int, args: argparse.Namespace, path: str) -> None:
    """Measure all methods in one process of the group."""
    torch.set_num_threads(1)
    store = dist.FileStore(path, args.processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=args.processes)
    ratios = {method: measure(method, args) for method in args.methods}
    if rank == 0 and args.out:
        content = {"processes": args.processes, "batch": args.batch, "rounds": args.rounds}
        content |= {"step / plain step": ratios, "environment": environment()}
        args.out.write_text(json.dumps(content, indent=1) + "\n")
    dist.destroy_process_group()


def measure(method: str, args: argparse.Namespace) -> float:
    """Return the median ratio of our step to the plain one."""
    world = World(dist.get_rank(), args.processes, dist.get_rank())
    ours = Trainer(build_task(method, args), HPARAMS, world)
    with mock.patch.object(ranks, "num_ranks", return_value=1):
        with mock.patch("distillers.losses.semckd.num_ranks", return_value=1):
            plain = Trainer(build_task(method, args), HPARAMS)
        plain.runner._run = DistributedDataParallel(
            plain.task, static_graph=True, gradient_as_bucket_view=True, **WITHOUT_BUFFERS
        )
    batch = build_batch(args, world)

    def plain_step() -> None:
        with mock.patch.object(ranks, "num_ranks", return_value=1):
            train_step(plain, batch)

    pairs = [
        (time_call(lambda: train_step(ours, batch), world), time_call(plain_step, world))
        for _ in range(args.rounds + 2)
    ][2:]  # the first ones warm up
    found = [mine / its for mine, its in pairs]
    ratio, spread = statistics.median(found), max(found) - min(found)
    took = statistics.median(mine for mine, _ in pairs)
    world.say(f"{method:<8}{ratio:.3f}   spread {spread:.3f}, {1000 * took:.0f} ms")
    return round(ratio, 4)


def build_task(method: str, args: argparse.Namespace) -> Distillation:
    """Return the task of a method with its published weights, cross-entropy and KL divergence."""
    torch.manual_seed(0)
    student, teacher = (
        models.create(name, num_classes=CLASSES, image_size=32)
        for name in ("resnet8x4", "resnet32x4")
    )
    row = recipes.recipe("simkd", method)
    task = distil(
        student,
        teacher,
        row.weights(method),
        images=torch.randn(2, 3, 32, 32),
        train_labels=torch.arange(IMAGES) % CLASSES,
        batch_size=args.batch // args.processes,
    )
    task.to(memory_format=torch.channels_last).train()
    return task


def build_batch(args: argparse.Namespace, world: World) -> Batch:
    """Return this process's part of a batch."""
    each = args.batch // args.processes
    index = torch.arange(each * world.rank, each * (world.rank + 1))
    images = torch.randn(each, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    return Batch(images, index % CLASSES, index, rows_per_rank=(each,) * args.processes)


def train_step(trainer: Trainer, batch: Batch) -> None:
    """Train for one step."""
    trainer.backward(batch, 0.5)
    trainer.optimizer_step()


def time_call(function: Callable[[], None], world: World) -> float:
    """Return the seconds of a call that all processes make at once."""
    world.wait()
    began = time.perf_counter()
    function()
    world.wait()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""What each method's step costs when the teacher's values are read from a cache.

    python benchmarks/cache.py                                # resnet32x4 -> resnet8x4, batch 64
    python benchmarks/cache.py --compile --channels_last --rounds 7
    python benchmarks/cache.py --work --threads 1             # on a machine that is not quiet
    python benchmarks/cache.py --memory                       # resident memory against file size

In one process, in rounds that run everything in turn: the student's plain step (forward,
cross-entropy, backward, SGD) and the teacher's forward, both plain and eager; and each method's
whole step with a cache that holds everything, the reading of it included. A ratio is that step
divided by student step + teacher forward of the same round; the table gives medians. Each step
reads other rows, of files that the system has in its memory. With `--work` the processor seconds
of this process count in the place of the clock's, which other programs hardly change.
Writes `benchmarks/results/cache.json`.
"""

import argparse
import importlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from distillers.cache.folder import CacheFolder
from distillers.cache.values import TeacherCache, reads_of
from distillers.data.batch import Batch
from distillers.distillation import Distillation
from distillers.train import Plan, Trainer

speed = importlib.import_module("speed")  # beside this file

ROOT = Path(__file__).parents[1]
KEY = {"format": 1, "teacher": {"model": "any"}, "data": {"name": "random", "images": 0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--methods", nargs="+", default=speed.ELEVEN)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--cached", type=int, default=8, help="batches in the cache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--work", action="store_true", help="count processor seconds")
    parser.add_argument("--memory", action="store_true", help="only the resident memory")
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/cache.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    content = json.loads(out.read_text()) if out.exists() else {}
    where = {"torch": torch.__version__, "machine": platform.machine(), "device": "cpu"}
    if args.memory:
        content["memory"] = {"environment": where, "results": memory()}
    else:
        form = "compiled" if args.compile else "eager"
        form += ", processor seconds" if args.work else ""
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        earlier = content.get(form, {}).get("results", {})
        results = {**earlier, **measure(args)}
        content[form] = {"settings": settings, "environment": where, "results": results}
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {out}")


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians and ratios of every method; also of the reading alone."""
    batch = speed.make_batch(args.batch_size)
    clock = time.process_time if args.work else time.perf_counter
    runs: dict[str, Callable[[], object]] = {
        "student step": speed.student_step(args.student, batch),
        "teacher forward": speed.teacher_forward(args.teacher, batch),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in args.methods:
            runs[name], runs[f"{name}, reading"] = cached_step(name, args, batch, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_number in range(args.rounds + 2):
            for name, run in runs.items():
                start = clock()
                run()
                if round_number > 1:  # the first rounds compile and warm up
                    times[name].append(clock() - start)
    base = [s + t for s, t in zip(times["student step"], times["teacher forward"], strict=True)]
    print(f"{'':<20}{'ms':>8}{'ratio':>8}{'min':>8}{'max':>8}")
    rows = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, base, strict=True)]
        rows[name] = {
            "ms": 1000 * statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        figures = "".join(f"{rows[name][k]:>8.3f}" for k in ("ratio", "ratio_min", "ratio_max"))
        print(f"{name:<20}{rows[name]['ms']:>8.2f}{figures}")
    return rows


def cached_step(
    method: str, args: argparse.Namespace, batch: Batch, folder: Path
) -> tuple[Callable[[], object], Callable[[], object]]:
    """A method's whole step, and the reading that is a part of it."""
    task = speed.make_task(method, args, batch).train()
    if args.channels_last:
        task.to(memory_format=torch.channels_last)
        batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
    trainer = Trainer(task, Plan(epochs=1, learning_rate=0.001, compile=args.compile))
    cache, views = filled(task, batch, args.cached, folder)

    def run() -> None:
        trainer.backward(replace(batch, teacher=cache.values(batch.images, next(views))), 0.0)
        trainer.step()

    return run, lambda: cache.values(batch.images, next(views))


def filled(
    task: Distillation, batch: Batch, num_batches: int, folder: Path
) -> tuple[TeacherCache, Iterator[Tensor]]:
    """A cache with so many batches, and endless random views of them."""
    size = len(batch.labels)
    num_rows = num_batches * size
    reads = reads_of(task, batch.images[:2])
    cache = TeacherCache(CacheFolder(folder, KEY), task, reads, num_rows)
    for views in torch.arange(num_rows).split(size):
        cache.fill(batch.images, views)
    rng = torch.Generator().manual_seed(0)

    def endless() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(num_rows, generator=rng).split(size)

    return cache, endless()


def memory() -> list[dict[str, float]]:
    """Resident memory before and after every row of a cache was read, for files of two sizes."""
    rows = []
    for num_rows in (1_000, 16_000):
        with tempfile.TemporaryDirectory() as folder:
            part = CacheFolder(Path(folder), KEY).part("map", {"shape": [256, 8, 8]}, num_rows)
            values = torch.randn(100, 256, 8, 8)
            for views in torch.arange(num_rows).split(100):
                part.write(views.numpy(), values)
            before = resident()
            for views in torch.randperm(num_rows).split(100):
                part.present(views.numpy())
                part.read(views.numpy(), torch.device("cpu"))
            row = {"file_mb": part.disk_bytes / 1e6, "grown_mb": resident() - before}
        rows.append(row)
        print(f"{row['file_mb']:.0f} MB read; resident memory grew by {row['grown_mb']:.1f} MB")
    return rows


def resident() -> float:
    """Resident memory of this process in MB, that of mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()

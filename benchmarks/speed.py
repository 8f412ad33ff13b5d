"""What each method's step costs beyond the two networks it runs.

    python benchmarks/speed.py                      # resnet32x4 -> resnet8x4, batch 64, 2 threads
    python benchmarks/speed.py --methods kd crd --rounds 9

In one process, in rounds that run everything in turn: the student's plain step (forward,
cross-entropy, backward, SGD), the teacher's forward, and each method's whole step. A method's ratio
is its step divided by student step + teacher forward of the same round; the table gives medians
over the rounds. Peak memory is that of a process of its own for each method. Writes
`benchmarks/results/speed.json`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from distillers import models, recipes
from distillers.data.batch import Batch
from distillers.distillation import Distillation, distil
from distillers.train import Plan, Trainer

ROOT = Path(__file__).parents[1]
ELEVEN = ["kd", "fitnet", "at", "sp", "vid", "crd", "srrl", "semckd", "simkd", "rrd", "dcd"]
IMAGES, CLASSES = 50_000, 100  # of CIFAR-100: the size of the memory banks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--methods", nargs="+", default=ELEVEN)
    parser.add_argument("--peaks", nargs="*", default=["kd", "crd"], help="whose peak memory")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/speed.json"))
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args))
        return
    times = measure(args)
    base = [s + t for s, t in zip(times["student step"], times["teacher forward"], strict=True)]
    rows = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, base, strict=True)]
        rows[name] = {
            "ms": 1000 * statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    for name in args.peaks:
        rows[name]["peak_mib"] = peak_of(name, args)
    show(rows)
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "peak")}
    where = {"torch": torch.__version__, "machine": platform.machine(), "device": "cpu"}
    content = {"settings": settings, "environment": where, "results": rows}
    Path(args.out).write_text(json.dumps(content, indent=1) + "\n")


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every part and method, one a round."""
    batch = make_batch(args.batch_size)
    runs: dict[str, Callable[[], object]] = {
        "student step": student_step(args.student, batch),
        "teacher forward": teacher_forward(args.teacher, batch),
    }
    for name in args.methods:
        runs[name] = method_step(name, args, batch)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(args.rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return times


def make_batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    index = torch.randint(IMAGES, (size,), generator=generator)
    return Batch(images, index % CLASSES, index)


def student_step(name: str, batch: Batch) -> Callable[[], object]:
    net = models.create(name, num_classes=CLASSES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def run() -> None:
        F.cross_entropy(net(batch.images), batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def teacher_forward(name: str, batch: Batch) -> Callable[[], object]:
    net = models.create(name, num_classes=CLASSES).eval()
    return torch.no_grad()(lambda: net(batch.images))


def make_task(method: str, args: argparse.Namespace, batch: Batch) -> Distillation:
    row = recipes.recipe("crd", method)
    torch.manual_seed(0)
    return distil(
        models.create(args.student, num_classes=CLASSES),
        models.create(args.teacher, num_classes=CLASSES),
        {"ce": row.ce, "kd": row.kd, **({} if method == "kd" else {method: row.method})},
        images=batch.images[:2],
        train_labels=torch.arange(IMAGES) % CLASSES,
        batch_size=args.batch_size,
    )


def method_step(method: str, args: argparse.Namespace, batch: Batch) -> Callable[[], object]:
    task = make_task(method, args, batch).train()
    trainer = Trainer(task, Plan(epochs=1, learning_rate=0.001))

    def run() -> None:
        trainer.backward(batch, 0.5)
        trainer.step()

    return run


def peak(method: str, args: argparse.Namespace) -> float:
    """Peak resident memory of this process after a few steps of a method, in MiB."""
    run = method_step(method, args, make_batch(args.batch_size))
    for _ in range(3):
        run()
    # getrusage would count the parent's peak too, which a new process inherits.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_of(method: str, args: argparse.Namespace) -> float:
    """The same, measured in a process of its own."""
    words = [sys.executable, __file__, "--peak", method, "--threads", str(args.threads)]
    words += ["--teacher", args.teacher, "--student", args.student]
    words += ["--batch_size", str(args.batch_size)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def show(rows: dict[str, dict[str, float]]) -> None:
    print(f"{'':<18}{'ms':>8}{'ratio':>8}{'min':>8}{'max':>8}{'peak MiB':>10}")
    for name, row in rows.items():
        memory = f"{row['peak_mib']:>10.0f}" if "peak_mib" in row else ""
        print(
            f"{name:<18}{row['ms']:>8.0f}{row['ratio']:>8.3f}{row['ratio_min']:>8.3f}"
            f"{row['ratio_max']:>8.3f}{memory}"
        )


if __name__ == "__main__":
    main()

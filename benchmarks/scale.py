"""Time steps for several batch sizes, image sizes, numbers of classes and sizes of memory.

    python benchmarks/scale.py                    # resnet32x4 -> resnet8x4 on what device there is
    python benchmarks/scale.py --teacher resnet20 --student resnet8 --rounds 3

One thing is changed at a time from batch 64, 32 x 32, 100 classes, 50,000 images. Medians of
interleaved rounds, of the student's plain step, the teacher's plain forward, and each method's
default step. What more processes cost is measured by `ranks.py`. Writes
`benchmarks/results/scale.json`.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from distillers import models
from distillers.distributed.rendezvous import device_of
from distillers.training.benchmark import DEFAULT, STUDENT, TEACHER, BenchmarkSetup, measure
from distillers.training.loggers import environment
from distillers.training.memory import reuse_freed_memory

RESULTS = Path(__file__).parent / "results"
METHODS = ("kd", "sp", "crd", "rrd")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu_id")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    args = parser.parse_args()
    reuse_freed_memory()
    device = device_of((args.gpu_id,) if args.gpu_id else ())
    student, teacher = network_builders(args, 100)
    base = BenchmarkSetup(student=student, teacher=teacher, device=device)
    results: dict[str, dict[str, float]] = {}
    for what, setup, methods in variations(base, args):
        results[what] = {}
        for method in methods:
            rows = measure(setup, method, [DEFAULT], args.rounds, Path(tempfile.gettempdir()))
            alone = {name: rows[name].ms for name in (STUDENT, TEACHER)}
            results[what] |= {**alone, method: rows[DEFAULT].ms}
        cells = ", ".join(f"{name} {ms:,.1f}" for name, ms in results[what].items())
        print(f"{what}: {cells} ms", flush=True)
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        content = {"settings": settings, "environment": environment(), "ms": results}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


def network_builders(args: argparse.Namespace, classes: int) -> tuple[partial, partial]:
    """Return functions that build the student and the teacher."""
    build = partial(models.create, num_classes=classes)
    return partial(build, args.student), partial(build, args.teacher)


def variations(
    base: BenchmarkSetup, args: argparse.Namespace
) -> Iterator[tuple[str, BenchmarkSetup, list[str]]]:
    """Yield each variation: its description, the setup, and the methods that it affects."""
    memories = [name for name in args.methods if name in ("crd", "rrd")]
    for size in (16, 64, 256):
        yield f"batch {size}", replace(base, batch_size=size), args.methods
    for side in (64, 96):
        yield (
            f"{side} x {side}, batch 16",
            replace(base, image_size=side, batch_size=16),
            args.methods,
        )
    for classes in (10, 1000):
        student, teacher = network_builders(args, classes)
        setup = replace(base, student=student, teacher=teacher, num_classes=classes)
        yield f"{classes} classes", setup, args.methods
    for images in (500_000, 1_281_167) if memories else ():
        yield f"{images:,} images", replace(base, num_images=images), memories
    for entries in (1024, 65_536):
        options = {"crd": {"negatives": entries}, "rrd": {"queue_size": entries}}
        for name in memories:
            setup = replace(base, options={name: options[name]})
            yield f"{entries:,} {'negatives' if name == 'crd' else 'in the queue'}", setup, [name]


if __name__ == "__main__":
    main()

"""Choose the weight of each method in the demo on training digits that the student does not see.

    python benchmarks/demo_weights.py [--methods kd rrd]

Trains the demo's student with 1, 1/10 and 1/100 of each method's published weight (of SimKD's also
10 times) for two seeds that the demo does not use, and writes accuracies on the 1,247 other
training digits to `benchmarks/results/demo_weights.json`. Continues where it was stopped.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from distillers.cli import demo
from distillers.data import ImageSet
from distillers.distillation.recipes import ELEVEN
from distillers.training import runner

RESULT = Path(__file__).parent / "results/demo_weights.json"
FACTORS = (1.0, 0.1, 0.01)
SIMKD_FACTORS = (10.0, *FACTORS)  # it has no other loss
SEEDS = (100, 101)


def held_out(images: ImageSet, rows: torch.Tensor) -> ImageSet:
    """Return the training images in `rows`, with the others as test images."""
    rest = torch.ones(len(images.train_labels), dtype=torch.bool)
    rest[rows] = False
    others = replace(
        images, test_images=images.train_images[rest], test_labels=images.train_labels[rest]
    )
    return others.keep(rows.repeat(demo.REPEAT))


def factors(method: str) -> tuple[float, ...]:
    return SIMKD_FACTORS if method == "simkd" else FACTORS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=[m for m in ELEVEN if m != "kd"])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    methods, out = args.methods, args.out
    device = torch.device("cpu")
    images = demo.digits()
    teacher = demo.train_teacher(images, device)
    found = json.loads(out.read_text()) if out.exists() else {}
    for method in ["alone", "kd", *methods]:
        for factor in factors(method) if method in methods else (1.0,):
            for seed in args.seeds:
                key = f"{method} x {factor} seed {seed}"
                if key in found:
                    continue
                part = held_out(images, demo._balanced_rows(images.train_labels, 50, seed))
                demo.FACTORS[method] = factor
                tests = {"test": part.test_loader(device)}
                net = demo.train_student(method, teacher, part, seed, device)
                found[key] = runner.evaluate_on_splits(net, tests)["test_acc"]
                out.write_text(json.dumps(found, indent=1) + "\n")
                print(f"{key}: {found[key]:.1f}", flush=True)
    for method in methods:
        means = {
            f: statistics.mean(found[f"{method} x {f} seed {s}"] for s in args.seeds)
            for f in factors(method)
        }
        print(method, max(means, key=means.__getitem__), means)


if __name__ == "__main__":
    main()

"""What a second teacher costs in a step, relative to its own forward pass.

    python benchmarks/second_teacher.py [--rounds 30]

resnet8x4 from resnet32x4 alone, and from resnet32x4 and wrn_40_2, with CE, KD and EmbedMatch, batch
64 of 32 x 32 images. The difference of both steps is the forward pass of wrn_40_2 and its head. CPU
time of this process is measured, since other programs keep the cores of a shared machine busy.
Writes `benchmarks/results/second_teacher.json`.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from distillers import Distillation, distil, models
from distillers.data.batch import Batch
from distillers.timing import time_interleaved

RESULT = Path(__file__).with_name("results") / "second_teacher.json"
BATCH, CLASSES = 64, 100


def measure(rounds: int) -> dict[str, float]:
    """Return the ratios."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randn(BATCH, 3, 32, 32)
    batch = Batch(images, torch.arange(BATCH) % CLASSES, torch.arange(BATCH))
    first, second = (models.create(name, CLASSES) for name in ("resnet32x4", "wrn_40_2"))

    def task(*teachers: torch.nn.Module) -> Distillation:
        student = models.create("resnet8x4", CLASSES)
        weights = {"ce": 1.0, "kd": 1.0, "embedmatch": 1.0}
        made = distil(student, list(teachers), weights, images=images)
        made.train()
        return made

    one, two = task(first), task(first, second)
    cached = two.read_teacher(images, 0) | {
        f"teacher2_{name.removeprefix('teacher_')}": value
        for name, value in two.read_teacher(images, 1).items()
    }

    def step(of: torch.nn.Module, given: Batch = batch) -> None:
        of.zero_grad()
        of(given).loss.backward()

    runs = {
        "one": lambda: step(one),
        "two": lambda: step(two),
        "cached": lambda: step(two, replace(batch, teacher=cached)),
        "forward": lambda: two.read_teacher(images, 1),
    }
    found = time_interleaved(runs, rounds, images.device, 1, time.process_time)
    extra = [b - a for a, b in zip(found["one"], found["two"], strict=True)]
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        "second_over_its_forward": statistics.median(extra) / medians["forward"],
        "cached_over_one": medians["cached"] / medians["one"],
        "seconds_of_one": medians["one"],
        "rounds": rounds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    text = json.dumps(measure(args.rounds), indent=2)
    args.out.write_text(text + "\n")
    print(text)

"""What the recipes bring on real CIFAR-10: published, distil and patient, with KD and RRD.

    python benchmarks/recipes.py --data_dir data --images 10000 --epochs 30 --seeds 0 1 2

Runs the documented commands, each in a separate process, on the first images of CIFAR-10; earlier
runs are continued with `--resume`. All recipes have the same number of epochs, and `patient` also
has each of `--longer` times as many. Writes the accuracies of the last epochs to
`benchmarks/results/recipes.json`, and prints them as a table.
"""

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = "cifar-10-batches-py"
RECIPES = ("published", "distil", "patient")
FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--save_dir", default="save/recipes")
    parser.add_argument(
        "--images", type=int, default=10_000, help="for training, 1/5 of a file each"
    )
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--methods", nargs="+", default=["kd", "rrd"])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--longer", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="fp32", help="of the students")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/recipes.json"))
    args = parser.parse_args()
    part = cut(Path(args.data_dir), Path(args.save_dir), args.images, args.tests)
    shared = ["--dataset", "cifar10", "--data_dir", str(part), "--save_dir", args.save_dir]
    shared += ["--protocol", "crd", "--resume", "--save_freq", "0"]
    epochs = ["--epochs", str(args.epochs), "--lr_decay_epochs", milestones(args.epochs)]
    teacher = train("teacher", [*shared, *epochs, "--model", args.teacher, "--trial", "0"])
    runs = [
        (f"{method} {recipe}" + (f" x {times}" if times > 1 else ""), flags)
        for seed in args.seeds  # outermost, so that a stopped benchmark has whole comparisons
        for method in args.methods
        for recipe in RECIPES
        for times in [1, *(args.longer if recipe == "patient" else [])]
        for flags in [student_flags(args, teacher, method, recipe, times, seed)]
    ]
    rows: dict[str, list[dict]] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        done = pool.map(lambda run: train("student", [*shared, *run[1]]), runs)
        for (name, _), row in zip(runs, done, strict=True):
            rows.setdefault(name, []).append(row)
            write(args, teacher, rows)
    print(table(json.loads(Path(args.out).read_text())))


def table(content: dict) -> str:
    """Return the accuracies as a Markdown table, mean ± standard deviation over several seeds."""
    lines = ["| method, recipe | epochs | test accuracy, % |", "|---|---|---|"]
    settings = content["settings"]
    for name, row in content["results"].items():
        what, _, times = name.partition(" x ")
        accuracy = f"{row['mean']:.2f}" + (f" ± {row['sd']:.2f}" if row["sd"] is not None else "")
        epochs = settings["epochs"] * int(times or 1)
        lines.append(f"| {what.replace(' ', ', ', 1)} | {epochs} | {accuracy} |")
    return "\n".join(lines)


def student_flags(
    args: argparse.Namespace, teacher: dict, method: str, recipe: str, times: int, seed: int
) -> list[str]:
    """Return the flags of a student, without those of all runs."""
    flags = ["--path_t", teacher["best"], "--model_s", args.student, "--distill", method]
    flags += ["--recipe", recipe, "--batch_size", "64", "--trial", str(seed)]
    flags += ["--epochs", str(args.epochs * times), "--precision", args.precision]
    return flags + (["--lr_decay_epochs", milestones(args.epochs)] if recipe == "published" else [])


def milestones(epochs: int) -> str:
    """Return the published milestones 150, 180, 210 of 240, scaled; short runs have fewer."""
    scaled = {max(1, round(epochs * each / 8)) for each in (5, 6, 7)}
    return ",".join(map(str, sorted(scaled)))


def cut(data_dir: Path, save_dir: Path, images: int, tests: int) -> Path:
    """Write the first images of CIFAR-10 in its own layout, and return that folder."""
    to = save_dir / f"first_{images}_{tests}"
    (to / FOLDER).mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "batches.meta"):
        content = pickle.loads((data_dir / FOLDER / name).read_bytes(), encoding="bytes")
        count = tests if name == "test_batch" else images // 5
        if name in FILES:
            content = {
                key: value[:count] if key in (b"data", b"labels", b"filenames") else value
                for key, value in content.items()
            }
        (to / FOLDER / name).write_bytes(pickle.dumps(content, protocol=2))
    return to


def train(kind: str, flags: list[str]) -> dict:
    """Train by the documented command; return its accuracy and the path of its weights."""
    command = [sys.executable, str(ROOT / f"train_{kind}.py"), *flags]
    print(" ".join(command[1:]), flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    best = Path(done.stdout.splitlines()[-1].removeprefix("saved "))
    last = json.loads((best.parent / "metrics.jsonl").read_text().splitlines()[-1])
    print(f"{last['test_acc']:.2f} %", flush=True)
    return {"best": str(best), "test_acc": last["test_acc"]}


def write(args: argparse.Namespace, teacher: dict, rows: dict[str, list[dict]]) -> None:
    """Write all results so far."""
    results = {}
    for name, runs in rows.items():
        accuracies = [run["test_acc"] for run in runs]
        results[name] = {
            "test_acc": accuracies,
            "mean": round(statistics.mean(accuracies), 2),
            "sd": round(statistics.stdev(accuracies), 2) if len(accuracies) > 1 else None,
        }
    content = {
        "what": "test accuracy in percent after the last epoch, a number for each seed",
        "settings": {
            k: v for k, v in vars(args).items() if k not in ("out", "data_dir", "save_dir")
        },
        "environment": {"machine": platform.machine(), "processors": os.cpu_count()},
        "teacher": round(teacher["test_acc"], 2),
        "results": results,
    }
    Path(args.out).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

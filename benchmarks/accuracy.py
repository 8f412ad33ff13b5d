"""Accuracy on real CIFAR-10: a teacher, a student alone, and the student distilled, several seeds.

    python benchmarks/accuracy.py --data_dir data --epochs 10 --seeds 0 1

Runs the documented commands, each in a separate process; earlier runs are continued with
`--resume`. Writes every run's last-epoch accuracy, mean and standard deviation to
`benchmarks/results/cifar10.json`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--save_dir", default="save/accuracy")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--methods", nargs="+", default=["kd"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--decay", default="5,8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/cifar10.json"))
    args = parser.parse_args()
    shared = ["--dataset", "cifar10", "--data_dir", args.data_dir, "--save_dir", args.save_dir]
    shared += ["--epochs", str(args.epochs), "--lr_decay_epochs", args.decay]
    shared += ["--protocol", "crd", "--resume", "--save_freq", "0"]
    teacher = train("teacher", [*shared, "--model", args.teacher, "--trial", "0"])
    rows = {f"teacher {args.teacher}": [teacher]}
    for seed in args.seeds:
        alone = train("teacher", [*shared, "--model", args.student, "--trial", str(seed)])
        rows.setdefault(f"{args.student} alone", []).append(alone)
        for method in args.methods:
            flags = [
                "--path_t",
                str(teacher["best"]),
                "--model_s",
                args.student,
                "--distill",
                method,
            ]
            result = train("student", [*shared, *flags, "--trial", str(seed)])
            rows.setdefault(f"{args.student} {method}", []).append(result)
    write(rows, args)


def train(kind: str, flags: list[str]) -> dict:
    """Train by the documented command; return its metrics and the path of its weights."""
    command = [sys.executable, str(ROOT / f"train_{kind}.py"), *flags]
    print(" ".join(command[1:]), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, flush=True)
    saved = next(line.split(" ", 1)[1] for line in done.stdout.splitlines() if "saved " in line)
    best = Path(saved).resolve()
    lines = (best.parent / "metrics.jsonl").read_text().splitlines()
    environment = json.loads((best.parent / "environment.json").read_text())
    return {"best": best, "rows": [json.loads(line) for line in lines], "environment": environment}


def write(rows: dict[str, list[dict]], args: argparse.Namespace) -> None:
    table = {}
    for name, runs in rows.items():
        last = [each["rows"][-1]["test_acc"] for each in runs]
        table[name] = {
            "last_epoch_test_acc": last,
            "mean": statistics.mean(last),
            "sd": statistics.stdev(last) if len(last) > 1 else None,
            "n": len(last),
        }
        spread = f"+- {table[name]['sd']:.2f}" if len(last) > 1 else ""
        print(f"{name:<24}{table[name]['mean']:.2f} {spread} (n={len(last)})")
    settings = {k: getattr(args, k) for k in ("teacher", "student", "epochs", "decay", "seeds")}
    environment = next(iter(rows.values()))[0]["environment"]
    keep = ("python", "torch", "device", "cpu_threads", "revision")
    content = {
        "what": "CIFAR-10, 50,000 training images, crop and flip, SGD 0.05, batch 64, last epoch",
        "settings": settings,
        "environment": {k: environment[k] for k in keep} | {"machine": platform.machine()},
        "results": table,
        "curves": {name: [r["rows"] for r in runs] for name, runs in rows.items()},
    }
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

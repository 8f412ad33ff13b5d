"""Time a training on digits beside other work, with different waits of idle OpenMP threads.

    python benchmarks/busy.py --model resnet8 --rounds 3

Every round runs `train_teacher.py` once with each setting: first on the machine as it is, then
beside one busy process for each CPU. Prints seconds from start to exit. To keep other programs of a
machine out of both, run it in a control group with a large weight (`cpu.weight` or `cpu.shares`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distillers.config.cpus import WAIT, usable_cpus

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
    "of the commands": WAIT,
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, usable_cpus()])
    args = parser.parse_args()
    for number_busy in args.busy:
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number_busy)
        ]
        try:
            for number in range(args.rounds):
                times = {
                    name: time_training(args.model, args.epochs, wait)
                    for name, wait in SETTINGS.items()
                }
                shown = ", ".join(f"{name} {took:.1f} s" for name, took in times.items())
                print(f"beside {number_busy} busy processes, round {number}: {shown}", flush=True)
        finally:
            for process in busy:
                process.kill()


def time_training(model: str, epochs: int, wait: dict[str, str]) -> float:
    """Return the duration of a training."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    words = [sys.executable, str(ROOT / "train_teacher.py"), "--dataset", "digits"]
    words += ["--model", model, "--epochs", str(epochs), "--lr_decay_epochs", "", "--gpu_id", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [*words, "--save_dir", folder], env=kept | wait, check=True, capture_output=True
        )
        return time.perf_counter() - start


if __name__ == "__main__":
    main()

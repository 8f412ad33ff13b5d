"""A report of ten thousand runs."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from tests.run_folders import write, write_run

NUM_RUNS, SEEDS, EPOCHS = 10_000, 5, 240
PAIRS = [f"resnet{depth}" for depth in (8, 14, 20, 32, 38, 44, 56, 110, 116, 200)]

# Runs a command and prints its CPU seconds and the peak memory of its largest process in KiB. A
# process inherits the peak of its parent, so a small process must start it.
USED = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@pytest.mark.slow
def test_ten_thousand_runs_take_under_20_seconds_and_a_gibibyte(tmp_path):
    """Measured as CPU time of two cores, so that a busy machine does not fail the test."""
    accuracies = [20 + 50 * epoch / EPOCHS for epoch in range(EPOCHS)]
    template = write_run(tmp_path / "template", "kd", accuracies=accuracies)
    names = ("config", "summary")
    config, summary = (json.loads((template / f"{n}.json").read_text()) for n in names)
    for number in range(NUM_RUNS):
        folder = tmp_path / "save" / f"S_{number}"
        folder.mkdir(parents=True)
        row, pair = number // SEEDS, PAIRS[number // SEEDS % len(PAIRS)]
        changed = {"trial": number % SEEDS, "model_s": pair, "div": row}
        write(folder, "config.json", {**config, **changed})
        changes = {"settings": {"ce": 1, "kd": row}, "departures": {"kd": row}}
        write(folder, "summary.json", {**summary, **changes})
        for name in ("metrics.jsonl", "environment.json"):
            shutil.copy(template / name, folder / name)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "distillers.cli.main", "report", str(tmp_path / "save")]
    done = subprocess.run(
        [sys.executable, "-c", USED, *command, "--out", str(out)], check=True, capture_output=True
    )
    seconds, kib = json.loads(done.stdout.splitlines()[-1])
    assert seconds < 2 * 20
    assert kib < 2**20
    lines = list(csv.DictReader((out / "report.csv").read_text().splitlines()))
    assert sum(int(line["n"]) for line in lines) == NUM_RUNS
    assert len(lines) == NUM_RUNS / SEEDS

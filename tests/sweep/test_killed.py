"""A real sweep of twelve runs whose driver is killed three times."""

import json
import random
import subprocess
import sys
import time

import pytest

from distillers.distillation import recipes
from distillers.sweep.expand import expand
from distillers.sweep.ledger import Ledger
from tests.sweep.fakes import count_starts, parse_grid
from tests.sweep.test_run_job import alive, wait_for

EPOCHS, KILLS, AT_ONCE = 4, 3, 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_twelve_runs_survive_three_kills_of_their_driver(tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray")
    text = json.dumps({
        "save_dir": str(tmp_path),
        "fixed": {"dataset": "digits", "epochs": EPOCHS, "batch_size": 128, "clip_grad": 1},
        "pairs": ["resnet14 -> resnet8"],
        "methods": list(recipes.ELEVEN),
    })  # fmt: skip
    (tmp_path / "grid.json").write_text(text)
    runs, ledger = expand(parse_grid(text, "here")).runs, Ledger(tmp_path)
    assert len(runs) == 12
    words = [sys.executable, "-m", "distillers.cli.main", "sweep", str(tmp_path / "grid.json")]
    words += ["--engine", engine, "--gpu_id", "cpu", "--jobs", str(AT_ONCE), "--threads", "1"]
    rng = random.Random(7)
    for num_done in sorted(rng.sample(range(9), KILLS)):
        before = counts(ledger, runs)
        finished = [run for run in runs if ledger.is_done(run.folder)]
        log = tmp_path / "driver.log"
        with log.open("a") as file, subprocess.Popen(words, stdout=file, stderr=file) as driver:
            try:
                wait_for(lambda: is_on_its_way(ledger, runs, before, num_done), 900)  # noqa: B023
                time.sleep(rng.uniform(0, 6))
                assert driver.poll() is None, log.read_text()
            finally:
                driver.kill()
        wait_for(lambda: not any(map(alive, pids(ledger, runs))), 60)
        after = counts(ledger, runs)
        assert all(after[run] == before[run] for run in finished)
        assert all(after[run] <= before[run] + 1 for run in runs)
    assert not all(ledger.is_done(run.folder) for run in runs)
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    for run in runs:
        assert ledger.is_done(run.folder)
        rows = (run.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    starts = counts(ledger, runs)
    assert max(starts.values()) <= 1 + KILLS
    assert len(runs) < sum(starts.values()) <= len(runs) + KILLS * AT_ONCE
    print(f"{engine}: starts {sorted(starts.values())}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_drivers_of_one_grid_divide_the_runs(tmp_path):
    text = json.dumps({
        "save_dir": str(tmp_path),
        "fixed": {"dataset": "digits", "epochs": 2, "batch_size": 256},
        "pairs": ["resnet8 -> resnet8"],
        "methods": ["kd", "sp"],
        "trials": [1, 2],
    })  # fmt: skip
    (tmp_path / "grid.json").write_text(text)
    runs, ledger = expand(parse_grid(text, "here")).runs, Ledger(tmp_path)
    words = [sys.executable, "-m", "distillers.cli.main", "sweep", str(tmp_path / "grid.json")]
    words += ["--gpu_id", "cpu", "--jobs", "1"]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as second,
    ):
        texts = [driver.communicate()[0] for driver in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), texts
    assert [count_starts(ledger, run.folder) for run in runs] == [1] * 5
    began = [sum(line.startswith("running  ") for line in text.splitlines()) for text in texts]
    assert sum(began) == 5
    assert min(began) >= 1
    assert any("running elsewhere" in text for text in texts)


def is_on_its_way(ledger, runs, before, num_done):
    """Return whether a driver has started a run, and `num_done` runs are done."""
    done = sum(ledger.is_done(run.folder) for run in runs)
    return done >= num_done and counts(ledger, runs) != before


def counts(ledger, runs):
    return {run: count_starts(ledger, run.folder) for run in runs}


def pids(ledger, runs):
    """Return the processes in the logs."""
    logs = [ledger.log(run.folder) for run in runs if ledger.log(run.folder).exists()]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    starts = [line for line in lines if line.startswith("=== started")]
    return [int(line.partition("process ")[2].partition(":")[0]) for line in starts]

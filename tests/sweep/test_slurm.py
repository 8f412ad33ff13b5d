"""Runs as SLURM jobs, with a fake SLURM and the real submitit."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distillers.sweep.expand import expand
from distillers.sweep.ledger import Ledger
from tests.sweep.fakes import count_starts, parse_grid
from tests.sweep.test_run_job import wait_for

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FAKE = Path(__file__).with_name("fake_slurm.py")
GRID = """
fixed: {dataset: digits, batch_size: 256, epochs: 12}
pairs: [resnet8 -> resnet8]
methods: [alone]
trials: [0, 1]
"""


@pytest.fixture
def slurm(tmp_path):
    """Create a folder with the commands of SLURM, and an environment with it in PATH."""
    folder = tmp_path / "slurm" / "bin"
    folder.mkdir(parents=True)
    for name in ("sbatch", "srun", "sacct", "scontrol", "job"):
        script = folder / name
        shutil.copy(FAKE, script)
        script.write_text(f"#!{sys.executable}\n{script.read_text()}")
        script.chmod(0o755)
    yield folder.parent, {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    for path in folder.parent.glob("*.group"):  # what a failed test left behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def test_jobs_outlive_their_driver_and_are_queued_anew_when_slurm_asks(tmp_path, slurm):
    place, environment = slurm
    (tmp_path / "grid.yml").write_text(GRID)
    save = tmp_path / "save"
    words = [sys.executable, "-m", "distillers.cli.main", "sweep", str(tmp_path / "grid.yml")]
    words += ["--save_dir", str(save), "--engine", "slurm", "--gpu_id", "cpu"]

    with driver(words, environment, tmp_path) as first:
        wait_for(lambda: len(list((save / "sweep" / "slurm").glob("*.number"))) == 2, 120)
        first.kill()
    ledger, runs = Ledger(save), expand_in(tmp_path, save)
    log = tmp_path / "driver.log"
    log.unlink()
    with driver(words, environment, tmp_path) as second:
        wait_for(lambda: "2 queued" in log.read_text(), 120)
        (place / "go").touch()
        wait_for(lambda: all((run.folder / "metrics.jsonl").exists() for run in runs), 200)
        job = int((place / "100.pid").read_text())  # of submitit, whose child is the run
        children = Path(f"/proc/{job}/task/{job}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)  # as SLURM does, to all processes of a job,
        os.kill(job, signal.SIGUSR2)  # before this, which asks submitit to come back later
        wait_for(lambda: second.poll() is not None, 400)
    assert second.returncode == 0, log.read_text()
    assert all(ledger.is_done(run.folder) for run in runs)
    assert len(list(place.glob("*.script"))) == 2  # the second driver submitted nothing
    assert sorted(count_starts(ledger, run.folder) for run in runs) == [1, 2]
    assert not list((save / "sweep" / "slurm").glob("*.number"))


@contextlib.contextmanager
def driver(words, environment, tmp_path):
    log = (tmp_path / "driver.log").open("a")
    with log, subprocess.Popen(words, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def expand_in(tmp_path, save):
    text = (tmp_path / "grid.yml").read_text() + f"save_dir: {save}\n"
    return expand(parse_grid(text, "here")).runs


def test_a_setting_that_submitit_does_not_know_is_reported(tmp_path, slurm):
    _, environment = slurm
    (tmp_path / "grid.yml").write_text(GRID)
    words = [sys.executable, "-m", "distillers.cli.main", "sweep", str(tmp_path / "grid.yml")]
    words += ["--save_dir", str(tmp_path / "save"), "--engine", "slurm", "--slurm"]
    for wrong in ("slurm_partitoin=gpu", "timeout_min=soon"):
        done = subprocess.run([*words, wrong], env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: --slurm: ")
        assert wrong.partition("=")[0] in done.stderr

"""The process of one run: it skips locked and finished runs, and ends with its sweep."""

import os
import signal
import subprocess
import sys
import time

import pytest

from distillers.sweep.executors.job import Job
from distillers.sweep.ledger import DONE, LOCKED_STATUS, Ledger, try_lock

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends it with its parent")


def job_in(tmp_path):
    folder = tmp_path / "teachers" / "models" / "run"
    words = ("--no-such-flag",)  # it would end with status 2
    return Job(("teacher", *words), str(folder), str(tmp_path), str(tmp_path), 1)


def starts(job):
    return job.log.read_text().count("=== started") if job.log.exists() else 0


def test_it_runs_the_command_and_logs_it(tmp_path):
    job = job_in(tmp_path)
    process = job.start("cpu")
    assert process.wait() == 2
    assert starts(job) == 1
    assert "train_teacher.py --no-such-flag --resume --gpu_id cpu" in job.log.read_text()


def test_it_skips_a_locked_run(tmp_path):
    job = job_in(tmp_path)
    holder = "import sys; from pathlib import Path; from distillers.sweep.ledger import try_lock\n"
    holder += "with try_lock(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    lock = str(Ledger(tmp_path).lock(tmp_path / "run"))
    words = [sys.executable, "-c", holder, lock]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert job.start("cpu").wait() == LOCKED_STATUS
        other.kill()
    assert starts(job) == 0
    assert job.start("cpu").wait() == 2


def test_it_does_not_start_what_is_done(tmp_path):
    job = job_in(tmp_path)
    done = tmp_path / "teachers" / "models" / "run" / DONE
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    assert job.start("cpu").wait() == 0
    assert starts(job) == 0


@LINUX
def test_it_does_not_start_without_its_sweep(tmp_path):
    words = ["-m", "distillers.cli.run_job", str(os.getpid() + 1), str(tmp_path / "lock"), "done"]
    done = subprocess.run([sys.executable, *words, "teacher", "--help"], capture_output=True)
    assert done.returncode == -signal.SIGTERM
    assert not (tmp_path / "lock").exists()


SWEEP = """
import sys, time
from distillers.sweep.executors.job import Job
job = Job(("teacher",), sys.argv[1] + "/run", sys.argv[1], sys.argv[1], 1)
import distillers.sweep.executors.job as module
module.sys.executable = sys.argv[2]
process = job.start("cpu")
print(process.pid, flush=True)
time.sleep(60)
"""
# replaces Python: requests its end with its parent as a run does, then sleeps
RUN = """#!{python}
import os, sys, time
from distillers.cli.run_job import end_with_parent
end_with_parent(int(sys.argv[3]))
print("ready", flush=True)
time.sleep(60)
"""


@LINUX
def test_it_ends_with_a_sweep_that_is_killed(tmp_path):
    run = tmp_path / "run.py"
    run.write_text(RUN.format(python=sys.executable))
    run.chmod(0o755)
    words = [sys.executable, "-c", SWEEP, str(tmp_path), str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sweep:
        assert sweep.stdout is not None
        pid = int(sweep.stdout.readline())
        log = Ledger(tmp_path).log(tmp_path / "run")
        wait_for(lambda: log.exists() and "ready" in log.read_text())
        assert alive(pid)
        sweep.kill()
    wait_for(lambda: not alive(pid))


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid):
    """Return whether a process runs; zombies do not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_lock_is_free_after_the_context(tmp_path):
    with try_lock(tmp_path / "lock") as first:
        assert first
    with try_lock(tmp_path / "lock") as second:
        assert second

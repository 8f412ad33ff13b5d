"""The state of runs in files, across processes."""

import subprocess
import sys

import pytest

from distillers.sweep.ledger import START_MARKER, Ledger, start_line, try_lock
from tests.sweep.fakes import count_starts

HOLDER = """
import sys, time
from pathlib import Path
from distillers.sweep.ledger import try_lock
with try_lock(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    return tmp_path / "students" / "models" / "S_a_T_b_1_0123abcd"


def test_a_lock_excludes_other_processes_until_its_holder_is_killed(tmp_path, run):
    ledger = Ledger(tmp_path)
    assert not ledger.is_locked(run)
    words = [sys.executable, "-c", HOLDER, str(ledger.lock(run))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert ledger.is_locked(run)
        with try_lock(ledger.lock(run)) as mine:
            assert not mine
        holder.kill()
    assert not ledger.is_locked(run)
    with try_lock(ledger.lock(run)) as mine:
        assert mine


def test_only_its_last_file_makes_a_run_done(tmp_path, run):
    ledger = Ledger(tmp_path)
    run.mkdir(parents=True)
    for name in ("metrics.jsonl", "test_best_metrics.json", "parameters.json.part"):
        (run / name).write_text("")
        assert not ledger.is_done(run)
    (run / "parameters.json").write_text("{}")
    assert ledger.is_done(run)


def test_a_failure_is_recorded_until_it_is_cleared(tmp_path, run):
    ledger = Ledger(tmp_path)
    ledger.clear_failure(run)
    assert not ledger.has_failed(run)
    ledger.record_failure(run, -9)
    assert Ledger(tmp_path).has_failed(run)
    ledger.clear_failure(run)
    assert not ledger.has_failed(run)


def test_the_end_of_the_last_start_is_shown(tmp_path, run):
    ledger = Ledger(tmp_path)
    assert count_starts(ledger, run) == 0
    assert ledger.tail(run) == []
    log = ledger.log(run)
    log.parent.mkdir(parents=True)
    lines = [start_line("a"), "old", "lines", start_line("a"), "new", "", ""]
    log.write_bytes("\n".join(lines).encode() + b"\xff")
    assert start_line("a").startswith(START_MARKER)
    assert count_starts(ledger, run) == 2
    assert ledger.tail(run) == ["new", "\ufffd"]

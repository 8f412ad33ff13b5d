"""The driver, with runs that take no time: order, failures, other drivers, kills."""

import io
import random
import subprocess
import sys

import pytest

from distillers.errors import PREEMPTED_STATUS
from distillers.sweep import display, driver
from distillers.sweep.driver import RunState, Sweep
from distillers.sweep.expand import expand
from distillers.sweep.ledger import LOCKED_STATUS, Ledger
from tests.sweep.fakes import FakeExecutor, Killed, parse_grid, record
from tests.sweep.test_ledger import HOLDER


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    text = (
        f"save_dir: {tmp_path}\nfixed: {{dataset: digits, epochs: 3}}\n"
        "pairs: [resnet20 -> resnet8, resnet14 -> resnet8]\nmethods: [alone, kd, at]\n"
        "trials: [1, 2]"
    )
    return expand(parse_grid(text, "here")).runs


def sweep_of(runs, tmp_path, executor):
    return Sweep(runs, Ledger(tmp_path), executor)


def states(sweep):
    return {progress.run.label: progress.state for progress in sweep.statuses.values()}


def go(sweep, show=lambda *_: None):
    sweep.run(show)
    return sweep


def test_everything_is_done_once_and_after_its_teacher(runs, tmp_path):
    executor = FakeExecutor()
    sweep = go(sweep_of(runs, tmp_path, executor))
    assert set(states(sweep).values()) == {RunState.DONE}
    assert executor.stopped
    assert sorted(executor.started) == sorted(str(run.folder) for run in runs)
    for run in runs:
        if run.teacher_run:
            order = executor.started.index
            assert order(str(run.teacher_run.folder)) < order(str(run.folder))
    again = FakeExecutor()
    assert set(states(go(sweep_of(runs, tmp_path, again))).values()) == {RunState.DONE}
    assert again.started == []


def test_a_failure_stops_its_students_and_nobody_else(runs, tmp_path):
    executor = FakeExecutor(statuses={"resnet20_vanilla": 3, "resnet14_digits_at_": -9})
    found = states(go(sweep_of(runs, tmp_path, executor)))
    for label, state in found.items():
        if label.startswith("resnet20 ->"):
            assert state is RunState.BLOCKED
        elif label.startswith("resnet20 ") or "  at  " in label:
            assert state is RunState.FAILED
        else:
            assert state is RunState.DONE
    again = FakeExecutor()
    assert states(go(sweep_of(runs, tmp_path, again))) == found
    assert again.started == []
    for run in runs:
        Ledger(tmp_path).clear_failure(run.folder)
    assert set(states(go(sweep_of(runs, tmp_path, again))).values()) == {RunState.DONE}


@pytest.mark.parametrize("status", [0, -15, 130, 143])
def test_a_run_that_was_stopped_has_not_failed(runs, tmp_path, status):
    executor = StoppingExecutor(status)
    found = go(sweep_of(runs, tmp_path, executor)).in_state(RunState.STOPPED)
    assert found
    assert not any(Ledger(tmp_path).has_failed(progress.run.folder) for progress in found)
    assert set(states(go(sweep_of(runs, tmp_path, FakeExecutor()))).values()) == {RunState.DONE}


class StoppingExecutor(FakeExecutor):
    """Its runs are stopped at once.

    Args:
        status: their exit status.
    """

    def __init__(self, status):
        super().__init__()
        self.status = status

    def pop_finished(self):
        over = [(job, self.status) for job in self.running]
        self.running.clear()
        return over


@pytest.mark.parametrize("seed", range(20))
def test_each_kill_of_the_driver_costs_at_most_one_more_start_per_run(runs, tmp_path, seed):
    """Two runs at once, about 24 polls in all; a kill affects only running runs."""
    rng = random.Random(seed)
    starts = dict.fromkeys((str(run.folder) for run in runs), 0)
    for _ in range(3):
        executor = FakeExecutor(kill_at=rng.randint(1, 12))
        with pytest.raises(Killed):
            go(sweep_of(runs, tmp_path, executor))
        assert len(set(executor.started)) == len(executor.started)
        for folder in executor.started:
            starts[folder] += 1
    executor = FakeExecutor()
    sweep = go(sweep_of(runs, tmp_path, executor))
    assert set(states(sweep).values()) == {RunState.DONE}
    for folder in executor.started:
        starts[folder] += 1
    assert all(1 <= count <= 4 for count in starts.values())
    assert sum(starts.values()) <= len(runs) + 3 * executor.places  # a kill can only lose those


def test_runs_of_another_driver_are_left_alone(runs, tmp_path, monkeypatch):
    ledger, theirs = Ledger(tmp_path), runs[-1]
    words = [sys.executable, "-c", HOLDER, str(ledger.lock(theirs.folder))]
    seen = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"

        def show(sweep, changed):
            waiting = sweep.in_state(*driver.PENDING)
            if [progress.run for progress in waiting] == [theirs]:
                seen.append(waiting[0].state)
                if holder.poll() is None:  # it ends its work, as the other driver's run
                    record(theirs.folder, 3)
                    (theirs.folder / "parameters.json").write_text("{}")
                    holder.kill()

        executor = FakeExecutor()
        sweep = go(sweep_of(runs, tmp_path, executor), show)
    assert RunState.ELSEWHERE in seen
    assert str(theirs.folder) not in executor.started
    assert set(states(sweep).values()) == {RunState.DONE}


@pytest.mark.parametrize("status", [LOCKED_STATUS, PREEMPTED_STATUS])
def test_locked_and_preempted_runs_are_tried_again(runs, tmp_path, monkeypatch, status):
    """The lock was taken after the check, or a signal stopped the run after saving."""
    executor = OnceExecutor(status)
    assert set(states(go(sweep_of(runs, tmp_path, executor))).values()) == {RunState.DONE}
    assert len(executor.started) == len(runs) + 1


class OnceExecutor(FakeExecutor):
    """Its first run ends at once.

    Args:
        status: its exit status.
    """

    def __init__(self, status):
        super().__init__()
        self.status = status

    def submit(self, job):
        if not self.started:
            self.statuses = {job.folder: self.status}
        super().submit(job)

    def pop_finished(self):
        over = super().pop_finished()
        self.statuses = {}
        return over


def test_a_damaged_record_does_not_stop_the_driver(runs, tmp_path):
    folder = runs[0].folder
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("{half")
    assert set(states(go(sweep_of(runs, tmp_path, FakeExecutor()))).values()) == {RunState.DONE}


def test_plain_output_lists_every_end_and_the_failures(runs, tmp_path):
    stream = io.StringIO()
    table = display.Display(stream)
    sweep = sweep_of(runs, tmp_path, FakeExecutor(statuses={"resnet14_digits_at_": 3}))
    go(sweep, table.update)
    table.close(sweep)
    text = stream.getvalue()
    assert text.count("\ndone  ") == 10
    assert text.count("\nfailed  ") == 2
    assert "epoch 3/3  test 30.00 %" in text
    assert text.splitlines()[-1].startswith("12 runs:  10 done  2 failed  0:00:")
    told = "\n".join(display.format_failures(sweep))
    assert "failed: resnet14 -> resnet8  at  trial 2" in told
    assert "--retry_failed" in told


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_table_in_a_terminal_is_drawn_over_itself(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(display, "REDRAW_SECONDS", 0.0)
    stream = Terminal()
    table = display.Display(stream)
    sweep = sweep_of(runs, tmp_path, FakeExecutor())
    go(sweep, table.update)
    table.close(sweep)
    shown = replay(stream.getvalue())
    assert sum(line.startswith("done ") for line in shown) == 12
    assert len(shown) == 13  # nothing of the tables before is left
    assert shown[-1].startswith("12 runs:  12 done")


def replay(text):
    """Return the lines in a terminal after `text`, which uses two control codes."""
    lines, row = [], 0
    for part in text.split("\n"):
        while part.startswith("\x1b["):
            up, _, part = part.removeprefix("\x1b[").partition("A\x1b[J")
            row -= int(up)
            del lines[row:]
        lines[row:] = [part]
        row += 1
    return [line for line in lines if line]


def test_time_left_is_estimated_from_the_runs_of_the_same_kind(runs, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(driver.time, "monotonic", lambda: now[0])
    sweep = sweep_of(runs, tmp_path, FakeExecutor())
    assert display.seconds_left(sweep) is None
    students = [p for p in sweep.statuses.values() if p.run.label.startswith("resnet20 -> ")]
    by_method = {}
    for progress in students:
        by_method.setdefault(progress.run.label.split()[3], []).append(progress)
    for progress in sweep.statuses.values():
        progress.state = RunState.DONE
    kd, at = by_method["kd"], by_method["at"]
    assert kd[0].cost_key == kd[1].cost_key != at[0].cost_key
    kd[0].started, kd[0].seconds, kd[0].epoch = 900.0, 30.0, 3
    at[0].started, at[0].seconds, at[0].epoch = 900.0, 60.0, 3
    kd[1].state = at[1].state = RunState.WAITING
    assert display.seconds_left(sweep) == 90.0
    kd[1].state = at[1].state = RunState.RUNNING
    kd[1].started, kd[1].epoch = 980.0, 2  # 10 s an epoch, as the other
    assert display.seconds_left(sweep) == max((10 + 60) / 2, 60)

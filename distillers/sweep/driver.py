"""The driver of a sweep: starts each run when possible; a failure stops no other run."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from distillers.config.run_files import (
    METRICS,
    MetricsRow,
    check_fields,
    load_metrics,
    reported_part,
)
from distillers.errors import PREEMPTED_STATUS, CorruptFileError
from distillers.sweep.estimate import cost_key
from distillers.sweep.executors import Executor
from distillers.sweep.executors.job import Job
from distillers.sweep.expand import Run
from distillers.sweep.ledger import LOCKED_STATUS, Ledger

POLL_SECONDS = 0.25
# Exit statuses of a run that was left to another process, or saved its state after a signal.
RETRY_STATUSES = (LOCKED_STATUS, PREEMPTED_STATUS)
STOPPED_STATUSES = (0, -15, 130, 143)  # of a run that was stopped; 0 is not done, as by sys.exit()


class RunState(StrEnum):
    """State of a run."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    ELSEWHERE = "running elsewhere"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    BLOCKED = "without its teacher"


PENDING = (RunState.WAITING, RunState.QUEUED, RunState.RUNNING, RunState.ELSEWHERE)


@dataclass
class RunStatus:
    """Status of one run.

    Attributes:
        run: the run.
        state: its state.
        started: time at which this sweep started it, by the monotonic clock; 0 if it did not.
        first_epoch: epochs done before.
        epoch: epochs done.
        metrics: metrics of the last epoch.
        seconds: duration in this sweep, once it has ended.
        modified: time at which the metrics that were read last were written, in ns.
        log_size: bytes of its log when it was queued.
    """

    run: Run
    state: RunState = RunState.WAITING
    started: float = 0.0
    first_epoch: int = 0
    epoch: int = 0
    metrics: dict[str, float] | None = None
    seconds: float = 0.0
    modified: int = 0
    log_size: int = 0

    def __post_init__(self) -> None:
        self.cost_key = cost_key(self.run.config.as_json_types())

    def read_metrics(self) -> None:
        """Update epoch and metrics if the run has written any."""
        path = self.run.folder / METRICS
        modified = path.stat().st_mtime_ns if path.exists() else 0
        if modified == self.modified:
            return
        self.modified = modified
        try:
            last = load_metrics(path)[0][-1]
            if f"{reported_part(last)}_acc" in last:
                check_fields(last, MetricsRow, METRICS)
                self.epoch, self.metrics = max(0, last["epoch"]), last
        except (IndexError, OSError, CorruptFileError):
            pass  # no epoch yet, or damaged, which the run itself reports

    def elapsed(self) -> float:
        """Return the seconds that it has taken in this sweep."""
        return self.seconds or (time.monotonic() - self.started if self.started else 0.0)


class Sweep:
    """Executes the runs of a grid."""

    def __init__(self, runs: Sequence[Run], ledger: Ledger, executor: Executor) -> None:
        self.ledger, self.executor = ledger, executor
        self.statuses = {run.folder: RunStatus(run) for run in runs}
        self.started = time.monotonic()
        for status in self.statuses.values():
            self._read_ledger(status)

    def run(self, on_update: Callable[["Sweep", RunStatus | None], None]) -> None:
        """Execute all runs that are not done and did not fail before."""
        try:
            while self.in_state(*PENDING):
                for status in self._poll():
                    on_update(self, status)
                on_update(self, None)
                time.sleep(POLL_SECONDS)
        finally:
            self.executor.shutdown()

    def in_state(self, *states: RunState) -> list[RunStatus]:
        """Return the runs in any of the states."""
        return [status for status in self.statuses.values() if status.state in states]

    def _poll(self) -> list[RunStatus]:
        """Collect ended runs, start others, and return those whose state has changed."""
        before = {folder: status.state for folder, status in self.statuses.items()}
        for job, exit_status in self.executor.pop_finished():
            self._finish(self.statuses[Path(job.folder)], exit_status)
        for status in self.in_state(RunState.ELSEWHERE):
            if not self.ledger.is_locked(status.run.folder):
                status.state = RunState.WAITING
                self._read_ledger(status)
                status.read_metrics()
        for status in self.in_state(RunState.WAITING):
            if not self.executor.has_room():
                break
            self._start(status)
        for status in self.in_state(RunState.QUEUED):
            if self._log_size(status) > status.log_size:  # a run prints a line when it starts
                status.state, status.started = RunState.RUNNING, time.monotonic()
        for status in self.in_state(RunState.RUNNING, RunState.ELSEWHERE):
            status.read_metrics()
        return [s for folder, s in self.statuses.items() if s.state != before[folder]]

    def _start(self, status: RunStatus) -> None:
        """Start a run, if its teacher is done and no other process executes it."""
        run = status.run
        teacher = self.statuses[run.teacher_run.folder].state if run.teacher_run else RunState.DONE
        if teacher in PENDING:
            return
        if teacher is not RunState.DONE:
            status.state = RunState.BLOCKED
            return
        self._read_ledger(status)  # another sweep may have executed it
        if status.state is not RunState.WAITING:
            return
        if self.ledger.is_locked(run.folder):
            status.state = RunState.ELSEWHERE
            return
        status.read_metrics()
        status.state, status.log_size = RunState.QUEUED, self._log_size(status)
        status.first_epoch = status.epoch
        args, save_dir = (run.command, *run.args), str(self.ledger.save_dir)
        threads = self.executor.threads
        self.executor.submit(Job(args, str(run.folder), save_dir, os.getcwd(), threads))

    def _finish(self, status: RunStatus, exit_status: int) -> None:
        """Set the state of a run that ended, by its files rather than its exit status."""
        status.seconds = status.elapsed()
        status.read_metrics()
        if self.ledger.is_done(status.run.folder):
            status.state = RunState.DONE
        elif exit_status in RETRY_STATUSES:
            status.state = RunState.ELSEWHERE
        elif exit_status in STOPPED_STATUSES:
            status.state = RunState.STOPPED
        else:
            status.state = RunState.FAILED
            self.ledger.record_failure(status.run.folder, exit_status)

    def _read_ledger(self, status: RunStatus) -> None:
        if self.ledger.is_done(status.run.folder):
            status.state = RunState.DONE
        elif self.ledger.has_failed(status.run.folder):
            status.state = RunState.FAILED

    def _log_size(self, status: RunStatus) -> int:
        log = self.ledger.log(status.run.folder)
        return log.stat().st_size if log.exists() else 0

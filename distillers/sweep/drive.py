"""The sweep itself: starts each run when it may, and lets none of them stop the others."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from distillers.errors import PREEMPTED_STATUS
from distillers.sweep.engine import Engine
from distillers.sweep.estimate import kind_of
from distillers.sweep.job import Job
from distillers.sweep.ledger import BUSY, Ledger
from distillers.sweep.runs import Run
from distillers.training.loggers import read_metrics

PAUSE = 0.25  # seconds between two looks at the runs
LOOK = 2.0  # seconds between two looks at what another sweep runs
AGAIN = (BUSY, PREEMPTED_STATUS)  # exit statuses of a run that is to be looked at again
STOPPED = (0, -15, 130, 143)  # those of one that was told to stop, and of which no more is known


class State(StrEnum):
    """How a run stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    ELSEWHERE = "running elsewhere"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    BLOCKED = "without its teacher"


UNDER_WAY = (State.WAITING, State.QUEUED, State.RUNNING, State.ELSEWHERE)


@dataclass
class Progress:
    """What a person sees of one run.

    Attributes:
        run: the run.
        state: how it stands.
        began: seconds of the clock at which it began in this sweep, 0 where it has not.
        began_after: epochs that were done by then.
        epoch: epochs that are done.
        figures: of the last of them.
        seconds: that it took in this sweep, once it ended.
        looked: when somebody else's run was last looked at.
        stamp: of the record that was last read.
        printed: bytes of its log when it was queued.
        kind: what runs whose epochs cost the same have in common.
    """

    run: Run
    state: State = State.WAITING
    began: float = 0.0
    began_after: int = 0
    epoch: int = 0
    figures: dict[str, float] | None = None
    seconds: float = 0.0
    looked: float = 0.0
    stamp: int = 0
    printed: int = 0
    kind: str = ""

    def read(self) -> None:
        """Look at what the run has recorded, if there is more of it than before."""
        path = self.run.folder / "metrics.jsonl"
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if stamp == self.stamp:
            return
        self.stamp = stamp
        try:
            rows = read_metrics(self.run.folder)
            epoch, figures = (int(rows[-1]["epoch"]), rows[-1]) if rows else (0, None)
        except (ValueError, KeyError, TypeError):  # the run itself will say so, or has
            return
        if figures and "test_acc" in figures:
            self.epoch, self.figures = max(0, epoch), figures


class Sweep:
    """The runs of a grid on their way.

    Args:
        runs: each after the one that it needs.
        ledger: what is known of them on the disk.
        engine: where they run.
        threads: of each on the CPU.
        save_dir: where they are saved.
    """

    def __init__(
        self, runs: Sequence[Run], ledger: Ledger, engine: Engine, threads: int, save_dir: str
    ) -> None:
        self.ledger, self.engine = ledger, engine
        self.threads, self.save_dir = threads, save_dir
        self.all = {r.folder: Progress(r, kind=kind_of(r.config.as_json_types())) for r in runs}
        self.started = time.monotonic()
        for progress in self.all.values():
            self._settle_from_disk(progress)

    def run(self, show: Callable[["Sweep", Progress | None], None]) -> None:
        """Run everything that is left.

        Args:
            show: called at every look, and with each run whose state has changed.
        """
        try:
            while any(progress.state in UNDER_WAY for progress in self.all.values()):
                for progress in self._changes():
                    show(self, progress)
                show(self, None)
                time.sleep(PAUSE)
        finally:
            self.engine.stop()

    def of(self, *states: State) -> list[Progress]:
        """The runs in some states."""
        return [progress for progress in self.all.values() if progress.state in states]

    def _changes(self) -> list[Progress]:
        """Take up what has happened, start what may start; the runs that stand otherwise now."""
        before = {folder: progress.state for folder, progress in self.all.items()}
        for job, status in self.engine.ended():
            self._settle(self._of_job(job), status)
        for progress in self.of(State.ELSEWHERE):
            self._look_again(progress)
        for progress in self.of(State.WAITING):
            if not self.engine.room():
                break
            self._start(progress)
        for progress in self.of(State.QUEUED):
            if self._printed(progress) > progress.printed:  # the first that a run does
                progress.state, progress.began = State.RUNNING, time.monotonic()
        for progress in self.of(State.RUNNING, State.ELSEWHERE):
            progress.read()
        return [p for folder, p in self.all.items() if p.state != before[folder]]

    def _start(self, progress: Progress) -> None:
        """Start a run, if what it needs is there and nobody else is at it."""
        needs = progress.run.needs
        teacher = None if needs is None else self.all[needs.folder].state
        if teacher in (State.FAILED, State.STOPPED, State.BLOCKED):
            progress.state = State.BLOCKED
            return
        if teacher not in (None, State.DONE):
            return
        self._settle_from_disk(progress)  # another sweep may have been at it
        if progress.state != State.WAITING:
            return
        if self.ledger.is_held(progress.run.folder):
            progress.state, progress.looked = State.ELSEWHERE, time.monotonic()
            return
        progress.read()
        progress.state, progress.printed = State.QUEUED, self._printed(progress)
        progress.began_after = progress.epoch
        self.engine.start(self._job(progress.run))

    def _settle(self, progress: Progress, status: int) -> None:
        """Say how a run ended: what it has written counts, not its exit status."""
        progress.seconds = time.monotonic() - progress.began if progress.began else 0.0
        progress.read()
        folder = progress.run.folder
        if self.ledger.is_done(folder):
            progress.state = State.DONE
        elif status in AGAIN:
            progress.state, progress.looked = State.ELSEWHERE, time.monotonic()
        elif status in STOPPED:
            progress.state = State.STOPPED
        else:
            self.ledger.fail(folder, status)
            progress.state = State.FAILED

    def _look_again(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - progress.looked < LOOK:
            return
        progress.looked = now
        if not self.ledger.is_held(progress.run.folder):
            progress.state = State.WAITING
            self._settle_from_disk(progress)
            progress.read()

    def _settle_from_disk(self, progress: Progress) -> None:
        folder = progress.run.folder
        if self.ledger.is_done(folder):
            progress.state = State.DONE
        elif self.ledger.has_failed(folder):
            progress.state = State.FAILED

    def _printed(self, progress: Progress) -> int:
        log = self.ledger.log(progress.run.folder)
        return log.stat().st_size if log.exists() else 0

    def _of_job(self, job: Job) -> Progress:
        return self.all[Path(job.folder)]

    def _job(self, run: Run) -> Job:
        words, folder = run.words, str(run.folder)
        place = (self.save_dir, os.getcwd())
        return Job(run.label, run.command, words, folder, *place, self.threads)

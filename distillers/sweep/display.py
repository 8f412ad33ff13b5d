"""Show the progress of a sweep: a table redrawn in a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections import defaultdict
from statistics import mean
from typing import TextIO

from distillers.config.run_files import reported_part
from distillers.config.sizes import pluralize
from distillers.progress import format_duration
from distillers.sweep.driver import PENDING, RunState, RunStatus, Sweep

PLAIN_SECONDS = 60.0  # between two plain lines
REDRAW_SECONDS = 0.5
MAX_ROWS = 20  # runs in the table
ACTIVE = (RunState.RUNNING, RunState.ELSEWHERE)


class Display:
    """Shows the state of a sweep."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._num_drawn = 0  # lines of the table in the terminal
        self._last = float("-inf")

    def update(self, sweep: Sweep, changed: RunStatus | None) -> None:
        """Show a run whose state has changed, or the whole sweep."""
        now = time.monotonic()
        if changed is not None:
            in_table = changed.state is RunState.RUNNING and self.live
            if changed.state is not RunState.QUEUED and not in_table:
                self._print([format_run(changed)])
        elif now - self._last >= (REDRAW_SECONDS if self.live else PLAIN_SECONDS):
            self._last = now
            rows = [format_summary(sweep)]
            if self.live:
                rows += [f"  {format_run(s)}" for s in sweep.in_state(*ACTIVE)[:MAX_ROWS]]
                columns, height = shutil.get_terminal_size()
                rows = [row[: columns - 1] for row in rows[: max(1, height - 1)]]
            self._print(rows)
            self._num_drawn = len(rows) if self.live else 0

    def close(self, sweep: Sweep) -> None:
        """Replace the table by a summary."""
        self._print([format_summary(sweep)])

    def _print(self, rows: list[str]) -> None:
        if self._num_drawn:  # move the cursor up to the table's first line and clear all below
            self.stream.write(f"\x1b[{self._num_drawn}A\x1b[J")
            self._num_drawn = 0
        print("\n".join(rows), file=self.stream, flush=True)


def format_run(status: RunStatus) -> str:
    """Return one run as a line: state, name, epoch, accuracy and time."""
    parts = [f"{status.state:<9}", status.run.label]
    if status.metrics and status.state in (*ACTIVE, RunState.DONE, RunState.STOPPED):
        parts.append(f"epoch {status.epoch}/{status.run.config.epochs}")
        part = reported_part(status.metrics)
        parts.append(f"{part} {status.metrics[f'{part}_acc']:.2f} %")
    if status.started:
        parts.append(format_duration(status.elapsed()))
    return "  ".join(parts)


def format_summary(sweep: Sweep) -> str:
    """Return the number of runs in each state, the time so far and the time left."""
    counts = {state: len(sweep.in_state(state)) for state in RunState}
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    seconds = seconds_left(sweep)
    rest = "" if seconds is None else f", about {format_duration(seconds)} left"
    parts.append(f"{format_duration(time.monotonic() - sweep.started)} so far{rest}")
    return "  ".join([f"{pluralize(len(sweep.statuses), 'run')}:", *parts])


def seconds_left(sweep: Sweep) -> float | None:
    """Estimate the time until the last run ends from the epochs of runs of equal cost so far.

    Runs with an unknown cost are assumed to take the mean of the others; None if all are unknown.
    """
    durations = defaultdict(list)
    for status in sweep.in_state(RunState.RUNNING, RunState.DONE):
        epochs = status.epoch - status.first_epoch
        if status.started and epochs > 0:
            durations[status.cost_key].append(status.elapsed() / epochs)
    pending = sweep.in_state(*PENDING)
    if not durations or not pending:
        return None
    means = {key: mean(values) for key, values in durations.items()}
    default = mean(means.values())
    left = [means.get(s.cost_key, default) * (s.run.config.epochs - s.epoch) for s in pending]
    return max(sum(left) / max(1, len(sweep.in_state(*ACTIVE))), *left)


def format_failures(sweep: Sweep) -> list[str]:
    """Return the runs that are not done, each with the end of its output."""
    lines = []
    for status in sweep.in_state(RunState.FAILED, RunState.STOPPED, RunState.BLOCKED):
        folder = status.run.folder
        lines.append(f"\n{status.state}: {status.run.label}")
        if status.state is not RunState.BLOCKED:
            lines += [f"  | {text}" for text in sweep.ledger.tail(folder)]
            lines.append(f"  log: {sweep.ledger.log(folder)}")
    if sweep.in_state(RunState.FAILED):
        lines.append("\n--retry_failed starts the failed ones again.")
    return lines

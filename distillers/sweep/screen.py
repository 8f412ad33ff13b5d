"""What a person sees of a sweep: a table, drawn anew, in a terminal; plain lines elsewhere."""

import shutil
import sys
import time
from typing import TextIO

from distillers.sweep.drive import UNDER_WAY, Progress, State, Sweep

QUIET = 60.0  # seconds between two plain lines
REDRAW = 0.5  # seconds between two drawings of the table
ROWS = 20  # runs that the table shows at most


class Screen:
    """Shows how a sweep stands.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._drawn = 0  # lines of the table that stand in the terminal
        self._last = float("-inf")

    def show(self, sweep: Sweep, changed: Progress | None) -> None:
        """Tell of a run whose state has changed, or how everything stands."""
        now = time.monotonic()
        if changed is not None:
            if changed.state is State.QUEUED or (changed.state is State.RUNNING and self.live):
                return  # the table shows it
            self._wipe()
            print(line(changed), file=self.stream, flush=True)
        elif now - self._last >= (REDRAW if self.live else QUIET):
            self._last = now
            self._wipe()
            rows = [summary(sweep)]
            if self.live:
                rows += [f"  {line(each)}" for each in _under_way(sweep)]
            self._write(rows)

    def close(self, sweep: Sweep) -> None:
        """Say how everything stands at last."""
        self._wipe()
        print(summary(sweep), file=self.stream, flush=True)

    def _write(self, rows: list[str]) -> None:
        if self.live:
            columns, height = shutil.get_terminal_size()
            rows = [row[: columns - 1] for row in rows[: max(1, height - 1)]]
            self._drawn = len(rows)
        print("\n".join(rows), file=self.stream, flush=True)

    def _wipe(self) -> None:
        """Take the table away: the cursor goes up to its first line, all below is cleared."""
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0


def line(progress: Progress) -> str:
    """One run: its state, name, epoch, accuracy and time."""
    parts = [f"{progress.state:<9}", progress.run.label]
    figures = progress.figures
    if figures and progress.state in (State.RUNNING, State.ELSEWHERE, State.DONE, State.STOPPED):
        parts.append(f"epoch {progress.epoch}/{progress.run.config.epochs}")
        parts.append(f"test {figures['test_acc']:.2f} %")
    if progress.began:
        seconds = progress.seconds or time.monotonic() - progress.began
        parts.append(clock(seconds))
    return "  ".join(parts)


def summary(sweep: Sweep) -> str:
    """How many runs stand how, the time so far and the time left."""
    counts = ((state, len(sweep.of(state))) for state in State)
    parts = [f"{len(sweep.all)} runs:", *(f"{count} {state}" for state, count in counts if count)]
    seconds = left(sweep)
    rest = "" if seconds is None else f", about {clock(seconds)} left"
    return "  ".join([*parts, f"{clock(time.monotonic() - sweep.started)} so far{rest}"])


def left(sweep: Sweep) -> float | None:
    """Seconds until the last run ends, by what the runs of the same kind took; None: not known.

    A kind that nothing is known of is taken to last as long as the mean of the others.
    """
    rates: dict[str, list[float]] = {}
    for progress in sweep.of(State.RUNNING, State.DONE):
        epochs = progress.epoch - progress.began_after
        if progress.began and epochs > 0:
            seconds = progress.seconds or time.monotonic() - progress.began
            rates.setdefault(progress.kind, []).append(seconds / epochs)
    todo = sweep.of(*UNDER_WAY)
    if not rates or not todo:
        return None
    means = {kind: sum(each) / len(each) for kind, each in rates.items()}
    usual = sum(means.values()) / len(means)
    rest = [means.get(p.kind, usual) * (p.run.config.epochs - p.epoch) for p in todo]
    at_once = max(1, len(sweep.of(State.RUNNING, State.ELSEWHERE)))
    return max(sum(rest) / at_once, max(rest, default=0.0))


def failures(sweep: Sweep) -> list[str]:
    """The runs that are not done, each with the end of what it printed."""
    lines = []
    for progress in sweep.of(State.FAILED, State.STOPPED, State.BLOCKED):
        folder = progress.run.folder
        lines.append(f"\n{progress.state}: {progress.run.label}")
        if progress.state is State.BLOCKED:
            continue
        lines += [f"  | {text}" for text in sweep.ledger.tail(folder)]
        lines.append(f"  log: {sweep.ledger.log(folder)}")
    if sweep.of(State.FAILED):
        lines.append("\n--retry_failed starts the failed ones once more.")
    return lines


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _under_way(sweep: Sweep) -> list[Progress]:
    return sweep.of(State.RUNNING, State.ELSEWHERE)[:ROWS]

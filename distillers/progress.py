"""Progress of long work on stderr: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO, TypeVar

from tqdm import tqdm

QUIET = 30.0  # seconds between two plain lines within an epoch
WAITED = 0.05  # fraction of the time spent waiting for data from which it is shown
SHOWN = ("train_loss", "train_acc", "val_acc", "test_acc")
Item = TypeVar("Item")


def counted(
    items: Iterable[Item], what: str, total: int, stream: TextIO | None = None
) -> Iterator[Item]:
    """Yield the items and show how many are done."""
    stream = stream or sys.stderr
    if stream.isatty():
        yield from tqdm(items, what, total, file=stream, leave=False, dynamic_ncols=True)
        return
    printed = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - printed > QUIET:
            printed = time.monotonic()
            print(f"{what}: {number} of {total} batches", file=stream, flush=True)


class Progress:
    """Show epoch, loss, accuracy, images per second and the remaining time of a run."""

    def __init__(
        self,
        epochs: int,
        batches: int,
        done: int = 0,
        stream: TextIO | None = None,
        unit: str = "epoch",
    ) -> None:
        self.epochs, self.batches, self.done, self.unit = epochs, batches, done, unit
        self.stream = stream or sys.stderr
        self.start = self.printed = time.monotonic()
        self.bar = (
            tqdm(total=batches, file=self.stream, leave=False, dynamic_ncols=True)
            if self.stream.isatty()
            else None
        )

    def batch(self, epoch: int, number: int, figures: Mapping[str, float]) -> None:
        """Show the figures within an epoch, after batch `number`."""
        if self.bar is not None:
            self.bar.n = number
            self.bar.set_description_str(self._line(epoch, number, figures))
        elif time.monotonic() - self.printed > QUIET:
            self._print(epoch, number, figures)

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Show the figures of a finished epoch."""
        if self.bar is not None:
            self.bar.clear()
        self._print(epoch, self.batches, figures)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()

    def _print(self, epoch: int, number: int, figures: Mapping[str, float]) -> None:
        self.printed = time.monotonic()
        print(self._line(epoch, number, figures), file=self.stream, flush=True)

    def _line(self, epoch: int, number: int, figures: Mapping[str, float]) -> str:
        share = (epoch - 1 - self.done + number / self.batches) / max(self.epochs - self.done, 1)
        left = (time.monotonic() - self.start) * (1 / max(share, 1e-9) - 1)
        parts = [
            f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in SHOWN if name in figures
        ]
        speed = f"{figures['images_per_second']:,.0f} images/s"
        if figures.get("waited", 0.0) > WAITED:
            speed += f" ({100 * figures['waited']:.0f} % of the time waiting for data)"
        clock = f"{format_duration(left)} left"
        return "  ".join([f"{self.unit} {epoch}/{self.epochs}", *parts, speed, clock])


def format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds, as in 1:02:03."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

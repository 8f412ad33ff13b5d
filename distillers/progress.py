"""What a person sees of a run: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO, TypeVar

from tqdm import tqdm

QUIET = 30.0  # seconds between two plain lines within an epoch
Item = TypeVar("Item")
LONG = 0.05  # share of the time waited for data from which on it is shown


def counted(
    items: Iterable[Item], what: str, total: int, stream: TextIO | None = None
) -> Iterator[Item]:
    """The items, and how many of them are done for a person to see.

    Args:
        items: what takes time to go through.
        what: is done to them.
        total: how many there are.
        stream: where to write.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        yield from tqdm(items, what, total, file=stream, leave=False, dynamic_ncols=True)
        return
    spoke = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            print(f"{what}: {number} of {total} batches", file=stream, flush=True)


class Progress:
    """Shows epoch, loss, accuracy, images a second and the time left of the whole run.

    Args:
        epochs: of the run.
        batches: an epoch.
        done: epochs that an earlier process did.
        stream: where to write.
        unit: what an epoch is called.
    """

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
        self.start = self.spoke = time.monotonic()
        self.bar = (
            tqdm(total=batches, file=self.stream, leave=False, dynamic_ncols=True)
            if self.stream.isatty()
            else None
        )

    def batch(self, epoch: int, number: int, figures: Mapping[str, float]) -> None:
        """Show the state within an epoch."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.n = number
            self.bar.set_description_str(self._line(epoch, number, figures))
        elif now - self.spoke > QUIET:
            self.spoke = now
            print(self._line(epoch, number, figures), file=self.stream, flush=True)

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Show the figures of a finished epoch."""
        self.spoke = time.monotonic()
        if self.bar is not None:
            self.bar.clear()
        print(self._line(epoch, self.batches, figures), file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _line(self, epoch: int, number: int, figures: Mapping[str, float]) -> str:
        share = (epoch - 1 - self.done + number / self.batches) / max(self.epochs - self.done, 1)
        left = int((time.monotonic() - self.start) * (1 / max(share, 1e-9) - 1))
        shown = ("train_loss", "train_acc", "val_acc", "test_acc")
        parts = [
            f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in shown if name in figures
        ]
        speed = f"{figures['images_per_second']:,.0f} images/s"
        if figures.get("waited", 0.0) > LONG:
            speed += f" ({100 * figures['waited']:.0f} % of the time waiting for data)"
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        return "  ".join([f"{self.unit} {epoch}/{self.epochs}", *parts, speed, clock])

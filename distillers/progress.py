"""What a person sees of a run: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

QUIET = 30.0  # seconds between two plain lines within an epoch


class Progress:
    """Shows epoch, loss, accuracy, images a second and the time left of the whole run.

    Args:
        epochs: of the run.
        batches: an epoch.
        done: epochs that an earlier process did.
        stream: where to write.
    """

    def __init__(
        self, epochs: int, batches: int, done: int = 0, stream: TextIO | None = None
    ) -> None:
        self.epochs, self.batches, self.done = epochs, batches, done
        self.stream = stream or sys.stderr
        self.start = self.spoke = self.began = time.monotonic()
        self.bar = (
            tqdm(total=batches, file=self.stream, leave=False, dynamic_ncols=True)
            if self.stream.isatty()
            else None
        )

    def batch(self, epoch: int, number: int, images: int, figures: Mapping[str, float]) -> None:
        """Show the state within an epoch."""
        now = time.monotonic()
        text = self._line(epoch, number, figures, images / max(now - self.began, 1e-9))
        if self.bar is not None:
            self.bar.n = number
            self.bar.set_description_str(text)
        elif now - self.spoke > QUIET:
            self.spoke = now
            print(text, file=self.stream, flush=True)

    def epoch(self, epoch: int, images: int, figures: Mapping[str, float]) -> None:
        """Show the figures of a finished epoch."""
        now = time.monotonic()
        text = self._line(epoch, self.batches, figures, images / max(now - self.began, 1e-9))
        self.began = self.spoke = now
        if self.bar is not None:
            self.bar.clear()
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _line(
        self, epoch: int, number: int, figures: Mapping[str, float], speed: float
    ) -> str:
        share = (epoch - 1 - self.done + number / self.batches) / max(self.epochs - self.done, 1)
        left = (time.monotonic() - self.start) * (1 / max(share, 1e-9) - 1)
        shown = ("train_loss", "train_acc", "val_acc", "test_acc")
        parts = [f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in shown if name in figures]
        clock = f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f} left"
        return f"epoch {epoch}/{self.epochs}  {'  '.join(parts)}  {speed:,.0f} images/s  {clock}"

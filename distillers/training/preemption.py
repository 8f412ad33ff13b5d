"""Signals that ask a run to stop, and the clock that asks it to save, heard between two steps."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distillers.data.batch import Batch
from distillers.distributed.world import World, complain
from distillers.errors import STOP_SIGNALS, PreemptedError
from distillers.training.state import TrainState

NOTHING, SAVE, STOP = range(3)
SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGINT)
SECONDS = 1.0  # between two agreements of several processes
TWICE = 1.0  # seconds between two keys pressed; a launcher may pass on a signal that all have got
LONG = 5.0  # seconds of scoring from which it is worth saving before

Snapshot = Callable[[], tuple[TrainState, nn.Module]]  # a collective call


def ignore(*_: object) -> None:
    """Do nothing, where nobody keeps what is made."""


class PreemptionHandler:
    """Saves a run between two steps when a signal or the clock asks, and stops it for a signal.

    Several processes get a signal at different steps, or some of them get none. They agree about
    once a second, at steps that they all know, so that all save the same step.

    Args:
        world: the processes.
        save: called in the first process with the state to save and the deployed network.
        minutes: between two states saved by the clock; 0 for none.
    """

    def __init__(
        self, world: World, save: Callable[[TrainState, nn.Module], None], minutes: float = 0.0
    ) -> None:
        self._world, self._save, self._minutes = world, save, minutes
        self._signal: int | None = None
        self._heard = 0.0
        self._saved = self._agreed = time.monotonic()
        self._steps, self._due = 0, 1
        self._scoring_took = 0.0
        self._may_leave = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the signals are heard; a second Ctrl-C acts at once."""
        before = {
            each: signal.signal(each, self._hear)
            for each in SIGNALS
            if each != getattr(signal, "SIGHUP", None) or signal.getsignal(each) != signal.SIG_IGN
        }  # under nohup SIGHUP stays ignored
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def after_step(self, snapshot: Snapshot) -> None:
        """Save `snapshot()`, and stop, if that was asked for.

        Raises:
            PreemptedError: after saving, for a signal.
        """
        self._steps += 1
        wish = self._wish()
        if self._world.size > 1:
            if self._steps < self._due:
                return
            wish = self._agree(wish)
        if wish == NOTHING:
            return
        self._keep(snapshot)
        if wish == STOP:
            raise PreemptedError(self._signal or signal.SIGTERM)

    @contextmanager
    def scoring(self, snapshot: Snapshot) -> Iterator[None]:
        """Around the scoring of an epoch, before which it is saved where scoring takes long."""
        self._may_leave = self._scoring_took > LONG
        if self._may_leave:
            self._keep(snapshot)
        began = time.monotonic()
        yield
        took = torch.tensor([time.monotonic() - began], dtype=torch.float64)
        self._scoring_took = float(self._world.sum(took)) / self._world.size
        self._may_leave = False

    def between(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a scoring.

        Raises:
            PreemptedError: for a signal, when the state was saved before.
        """
        for batch in batches:
            if self._may_leave and self._signal is not None:
                raise PreemptedError(self._signal)
            yield batch

    def _keep(self, snapshot: Snapshot) -> None:
        state, deployed = snapshot()
        if self._world.is_first:
            self._save(state, deployed)
        self._world.wait()
        self._saved = time.monotonic()

    def _hear(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._heard = number, now
            if self._world.is_first:
                name = signal.Signals(number).name
                complain(f"{name}: the run stops as soon as this step is done and saved.")
        elif number == signal.SIGINT and now - self._heard > TWICE:
            raise KeyboardInterrupt("stopped at once; --resume goes on from what was saved last.")

    def _wish(self) -> int:
        if self._signal is not None:
            return STOP
        due = self._minutes and time.monotonic() - self._saved > 60 * self._minutes
        return SAVE if due and self._world.is_first else NOTHING

    def _agree(self, wish: int) -> int:
        """The strongest wish of all; the first process says how many steps on they meet again."""
        now = time.monotonic()
        pace = self._steps / max(now - self._agreed, 1e-3) if self._steps > 1 else 1.0
        again = max(1, min(1000, round(pace * SECONDS))) if self._world.is_first else 0
        strongest, again = self._world.all_reduce_max([wish, again])
        self._steps, self._due, self._agreed = 0, again, now
        return strongest

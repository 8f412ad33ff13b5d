"""Save and stop a run between two steps on a signal, and save it at intervals."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distillers.data.batch import Batch
from distillers.distributed.world import World
from distillers.errors import STOP_SIGNALS, PreemptedError, complain
from distillers.training.state import TrainState

NOTHING, SAVE, STOP = range(3)
SIGNALS = (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGINT)
SECONDS = 1.0  # between two synchronizations of several processes
SECOND_SIGNAL = 1.0  # seconds after which another Ctrl-C counts; a launcher repeats the first
LONG_EVALUATION = 5.0  # seconds from which the state is saved before an evaluation

Snapshot = Callable[[], tuple[TrainState, nn.Module]]  # a collective call


def ignore(*_: object) -> None:
    """Do nothing."""


class PreemptionHandler:
    """Save a run between two steps after a signal or an interval, and stop it after a signal.

    A signal may reach the processes at different steps, or only some of them. They synchronize
    about once a second, at steps that all know, so that all save the same step. The first process
    calls `save` with the state and the deployed network, also every `minutes` minutes unless 0.
    """

    def __init__(
        self, world: World, save: Callable[[TrainState, nn.Module], None], minutes: float = 0.0
    ) -> None:
        self._world, self._save, self._minutes = world, save, minutes
        self._signal: int | None = None
        self._received = 0.0
        self._saved = self._agreed = time.monotonic()
        self._steps, self._due = 0, 1
        self._scoring_took = 0.0
        self._may_stop = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside the context; a second Ctrl-C stops at once."""
        before = {
            each: signal.signal(each, self._handle)
            for each in SIGNALS
            if each != getattr(signal, "SIGHUP", None) or signal.getsignal(each) != signal.SIG_IGN
        }  # under nohup SIGHUP stays ignored
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def after_step(self, snapshot: Snapshot) -> None:
        """Save `snapshot()` if it is due, and stop after a signal.

        Raises:
            PreemptedError: after a signal, once the state is saved.
        """
        self._steps += 1
        wish = self._requested()
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
    def evaluating(self, snapshot: Snapshot) -> Iterator[None]:
        """Save the state before an evaluation inside the context if the last one took long."""
        self._may_stop = self._scoring_took > LONG_EVALUATION
        if self._may_stop:
            self._keep(snapshot)
        began = time.monotonic()
        yield
        took = torch.tensor([time.monotonic() - began], dtype=torch.float64)
        self._scoring_took = float(self._world.sum(took)) / self._world.size
        self._may_stop = False

    def stoppable(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation; stop after a signal if the state was saved before."""
        for batch in batches:
            if self._may_stop and self._signal is not None:
                raise PreemptedError(self._signal)
            yield batch

    def _keep(self, snapshot: Snapshot) -> None:
        state, deployed = snapshot()
        if self._world.is_first:
            self._save(state, deployed)
        self._world.wait()
        self._saved = time.monotonic()

    def _handle(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._received = number, now
            if self._world.is_first:
                name = signal.Signals(number).name
                complain(f"{name}: the run stops as soon as this step is done and saved.")
        elif number == signal.SIGINT and now - self._received > SECOND_SIGNAL:
            raise KeyboardInterrupt("stopped at once; --resume continues from what was saved last.")

    def _requested(self) -> int:
        if self._signal is not None:
            return STOP
        due = self._minutes and time.monotonic() - self._saved > 60 * self._minutes
        return SAVE if due and self._world.is_first else NOTHING

    def _agree(self, wish: int) -> int:
        """Return the maximum over all processes, and set the step of the next synchronization."""
        now = time.monotonic()
        pace = self._steps / max(now - self._agreed, 1e-3) if self._steps > 1 else 1.0
        again = max(1, min(1000, round(pace * SECONDS))) if self._world.is_first else 0
        strongest, again = self._world.all_reduce_max([wish, again])
        self._steps, self._due, self._agreed = 0, again, now
        return strongest

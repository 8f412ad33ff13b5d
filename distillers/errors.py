"""The one error that the command line shows without a traceback."""

import difflib
import signal
from collections.abc import Iterable

# How a network is named whose file does not tell it.
MODEL_FLAGS = "--model_t (evaluate, export and figures: --model; transfer: --model_s)"


class InputError(ValueError):
    """Something that the user gave cannot work; the message says what, and what would."""


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that does not exist, with the nearest one that does.

    Args:
        kind: what was looked for, as in "loss" or "network".
        given: the name that was given.
        known: the names that exist.
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.5)
    hint = f", did you mean {by_lower[near[0]]!r}?" if near else "."
    return InputError(f"no {kind} {given!r}{hint} There are: {', '.join(names)}.")


class CorruptFileError(InputError):
    """A file that was written whole is not whole any more."""


class NonFiniteLossError(RuntimeError):
    """The loss is not a finite number any more; the message names its parts."""


class PreemptedError(RuntimeError):
    """A signal stopped the run after its state was saved.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} and saved; --resume goes on.")
        self.signal = number


class PeerLostError(RuntimeError):
    """Other processes of a distributed run are gone, or do not answer in time."""


# Exit statuses of the commands.
STATUS: dict[type, int] = {InputError: 2, NonFiniteLossError: 3, PeerLostError: 4}
TRY_AGAIN = 75  # EX_TEMPFAIL: a scheduler that knows it starts the run again

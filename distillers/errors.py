"""Exceptions with a meaning for users, and the exit statuses of the commands."""

import difflib
import signal
import sys
from collections.abc import Iterable

# Flags that name the architecture of a file that does not name it.
MODEL_FLAGS = (
    "--model (student, compress: --model_t; transfer: --model_s; compare: --model_old and "
    "--model_new)"
)
SAVE_WEIGHTS = "Save the weights alone with torch.save(net.state_dict(), NEW_FILE)"

MAX_NAMES = 200  # known names that a message lists


class InputError(ValueError):
    """Invalid user input; the message names what was given and what is allowed.

    The command line shows it without a traceback.
    """


def shorten(value: object) -> str:
    """Return a value as text for a message, cut after 200 characters."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def escape(text: str) -> str:
    """Escape control characters, which names in a file could send to the terminal.

    Line breaks remain, and bytes of file names that are not UTF-8.
    """
    return "".join(
        c if c.isprintable() or c == "\n" or "\udc80" <= c <= "\udcff" else repr(c)[1:-1]
        for c in text
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def install_command(extra: str) -> str:
    """Return the command that installs an extra, for a message."""
    return f'pip install -e ".[{extra}]" in the clone of distillers'


def complain(text: str) -> None:
    """Print a line to stderr, in any process."""
    print(text, file=sys.stderr, flush=True)


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """Return an `InputError` for an unknown name that suggests the nearest known ones.

    Args:
        kind: kind of name, as in "loss" or "network".
        given: the unknown name.
        known: the known names.
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    near = [repr(by_lower[name]) for name in nearest(given.lower(), by_lower)]
    hint = f", did you mean {' or '.join(near)}?" if near else "."
    shown = names if len(names) <= MAX_NAMES else [*names[:MAX_NAMES], "..."]
    listed = ", ".join(shown) or "none"
    return InputError(f"no {kind} {shorten(repr(given))}{hint} There are: {listed}.")


def nearest(given: str, known: Iterable[str]) -> list[str]:
    """Return the most similar of the known names: several, at most three, if equally similar."""
    found = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    ratios = [difflib.SequenceMatcher(None, name, given).ratio() for name in found]
    return [name for name, ratio in zip(found, ratios, strict=True) if ratio == ratios[0]]


class CorruptFileError(InputError):
    """A file is damaged: its content does not match its checksum."""


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite; the message lists its terms."""


class LimitExceededError(RuntimeError):
    """A network exceeds a limit that the user set; the message names the limit and the figure."""


class PreemptedError(RuntimeError):
    """The run was stopped by a signal, after its state was saved."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; the run is saved, --resume continues it.")
        self.signal = number


class PeerLostError(RuntimeError):
    """Another process of a distributed run has ended, or did not answer in time."""


# Signals that end a process; training saves first. Not all of them exist on Windows.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")
    if hasattr(signal, name)
)

# Exit statuses of the commands.
EXIT_STATUS: dict[type, int] = {
    LimitExceededError: 1,
    InputError: 2,
    NonFiniteLossError: 3,
    PeerLostError: 4,
}
PREEMPTED_STATUS = 75  # EX_TEMPFAIL: the run was preempted and can be started again

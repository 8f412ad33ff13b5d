"""A command as a process: signals that end it, and output that cannot be written."""

import atexit
import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from distillers.errors import STOP_SIGNALS, PreemptedError


class TerminatedError(KeyboardInterrupt):
    """A signal that ends the process was received.

    It is a KeyboardInterrupt so that nothing but cleanup code handles it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}.")
        self.signal = number


class GuardedStream:
    """An output stream that drops what cannot be written, so that work continues.

    Attributes:
        error: the first error of writing, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; see the class."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream; see the class."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send this and all later output to the null device."""
        self.error = self.error or error
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def with_guarded_output(work: Callable[[], int]) -> int:
    """Call `work`, and continue without output if stdout or stderr cannot be written.

    Returns:
        Its exit status; if that is 0 and output was lost, 1 if the reader has gone, as in
        `| head -1`, else 2 with a line on stderr.
    """
    _open_standard_files()
    before = sys.stdout, sys.stderr
    out, err = GuardedStream(_prepare(sys.stdout)), GuardedStream(_prepare(sys.stderr))
    sys.stdout, sys.stderr = out, err
    try:
        try:
            status = work()
        except SystemExit as error:  # of --help, or of the processes of a distributed run
            if error.code:
                raise
            status = 0
        out.flush()
        if out.error is not None and not isinstance(out.error, BrokenPipeError):
            print(f"error: cannot write to standard output: {out.error}", file=sys.stderr)
            status = status or 2
        err.flush()
        return status or int(bool(out.error or err.error))
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _open_standard_files() -> None:
    """Open the null device for standard files that are closed.

    Otherwise the next file that is opened would get their number, and what other libraries print
    would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _prepare(stream: TextIO | None) -> TextIO:
    """Return a stream that blocks, and prints every file name in any locale."""
    if stream is None:  # it was closed when Python started
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        if codecs.lookup(stream.encoding).name in ("ascii", "utf-8"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
        else:
            stream.reconfigure(errors="backslashreplace")
    with contextlib.suppress(OSError, ValueError):  # not a file
        if not os.get_blocking(stream.fileno()):
            os.set_blocking(stream.fileno(), True)
    return stream


@contextlib.contextmanager
def terminating_signals(until_exit: bool) -> Iterator[list[int]]:
    """Raise `TerminatedError` for the first signal that would end the process; ignore the next.

    Cleanup is thus neither skipped nor cut off by a signal that is sent repeatedly. Only in the
    main thread; elsewhere it has no effect.

    Args:
        until_exit: after a signal, ignore others until the process has ended, too.

    Yields:
        The signals that stop the process; append one that was handled elsewhere.
    """
    stopping: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        is_saved = isinstance(sys.exc_info()[1], PreemptedError)
        if not stopping and not is_saved:
            stopping.append(number)
            raise TerminatedError(number)

    handled: list[int] = []
    if threading.current_thread() is threading.main_thread():
        handled = [n for n in STOP_SIGNALS if signal.getsignal(n) in (signal.SIG_DFL, _ignore)]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield stopping
    finally:
        for number in handled:
            signal.signal(number, _ignore if stopping and until_exit else signal.SIG_DFL)
        if stopping and until_exit:
            atexit.register(_ignore_while_exiting, handled)


def _ignore(*_: object) -> None:
    """Handle a signal by doing nothing; unlike SIG_IGN, child processes do not inherit it."""


def _ignore_while_exiting(numbers: list[int]) -> None:
    """Ignore signals while the interpreter ends, which no longer calls handlers then."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)

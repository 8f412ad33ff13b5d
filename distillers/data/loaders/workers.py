"""Worker processes that decode images, and the error for one that has died."""

import multiprocessing
import signal
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from distillers.data.loaders.decode import ImageFiles
from distillers.errors import InputError

SUSPECTS = 64  # batches that are searched: more than are ever decoded ahead
PATIENCE = 120.0  # seconds to decode one image in
MEMORY = "use fewer --num_workers, or a machine with more memory"


def process_context() -> BaseContext | None:
    """Return how worker processes start.

    Forking a process that has threads or a GPU may deadlock; a fork server has neither.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distillers.data.loaders.decode"])
    return context


@contextmanager
def default_sigchld() -> Generator[None, None, None]:
    """Keep PyTorch from raising an exception anywhere in the program when a worker dies.

    It is noticed when the next batch is asked for, where the file can be named.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def worker_death(
    images: ImageFiles, batches: list[list[tuple[int, int]]], workers: object
) -> InputError:
    """Return the error for a worker process that died: which file it died of, or why else.

    `batches` are (turn, row) of the images of each batch that was not received, in order; `workers`
    is the iterator of the `DataLoader`.
    """
    row = _fatal_row(images, [each for batch in batches[:SUSPECTS] for each in batch])
    if row is not None:
        return InputError(
            f"{images.path(row)} ends the process that decodes it; delete or replace the file."
        )
    codes = [process.exitcode for process in getattr(workers, "_workers", ())]
    code = next((code for code in codes if code), None)
    if code == -signal.SIGKILL:
        why = f"was killed (SIGKILL), usually because memory ran out; {MEMORY}"
    elif code == -signal.SIGBUS:
        why = f"ran out of shared memory (SIGBUS); enlarge /dev/shm, or {MEMORY}"
    elif code is not None and code < 0:
        why = f"was ended by {signal.Signals(-code).name}; start again with --resume"
    else:
        why = f"ended with status {code}; start again with --resume, or --num_workers 0"
    return InputError(f"a process that decodes images {why}. No image file is at fault.")


def _fatal_row(images: ImageFiles, wanted: list[tuple[int, int]]) -> int | None:
    """Decode images in another process; return the row that ends it, or None."""
    context: Any = process_context() or multiprocessing
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_decode_all, args=(images, wanted, sender), daemon=True)
    process.start()
    sender.close()
    row = None
    try:
        while receiver.poll(PATIENCE):
            row = receiver.recv()
    except EOFError:  # the process has ended
        process.join()
        return row if process.exitcode else None
    process.kill()  # it hangs
    return row


def _decode_all(
    images: ImageFiles, wanted: Iterable[tuple[int, int]], progress: Connection
) -> None:
    for turn, row in wanted:
        progress.send(row)
        images.__getitems__([(turn, row)])

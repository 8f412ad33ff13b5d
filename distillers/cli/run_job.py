"""Execute one run of a sweep in a process that ends with the process that started it.

    python -m distillers.cli.run_job PARENT LOCK DONE student|teacher FLAGS

This is train_student.py or train_teacher.py, unless the run is done or another process executes it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from distillers.cli import main as cli
from distillers.sweep.ledger import LOCKED_STATUS, start_line, try_lock

PR_SET_PDEATHSIG = 1


def main(args: list[str]) -> int:
    """Return the exit status of the run, `LOCKED_STATUS`, or 0 if it was done already."""
    parent, lock, done, command, *flags = args
    end_with_parent(int(parent))
    # SLURM sends its warning to all processes of a job; the parent handles it and sends SIGTERM
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with try_lock(Path(lock)) as acquired:
        if not acquired:
            return LOCKED_STATUS
        if Path(done).is_file():
            return 0
        sys.argv = [f"train_{command}.py", *flags]
        print(start_line(" ".join(sys.argv)), flush=True)
        return cli.run(command, flags, until_exit=True)


def end_with_parent(parent: int) -> None:
    """Request SIGTERM for when the parent process ends, for whatever reason.

    Only Linux supports it. Elsewhere a run outlives its sweep, and keeps its lock.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the request
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

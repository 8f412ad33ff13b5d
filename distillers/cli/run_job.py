"""One run of a sweep in a process of its own, which ends with the process that started it.

    python -m distillers.cli.run_job PARENT LOCK DONE student|teacher FLAGS

It runs what train_student.py or train_teacher.py would, unless somebody else is at it or it is
done.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from distillers.cli import main as cli
from distillers.sweep.ledger import BUSY, hold, started_line

PR_SET_PDEATHSIG = 1


def main(args: list[str]) -> int:
    """The exit status of the run, `BUSY`, or 0 where it was done already."""
    parent, lock, done, command, *words = args
    end_with(int(parent))
    # what SLURM warns a job's processes with is for the one that started this one, which asks in
    # its turn with SIGTERM
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with hold(Path(lock)) as mine:
        if not mine:
            return BUSY
        if Path(done).is_file():
            return 0
        sys.argv = [f"train_{command}.py", *words]
        print(started_line(" ".join(sys.argv)), flush=True)
        return cli.run(command, words)


def end_with(parent: int) -> None:
    """Be sent SIGTERM when the process that started this one ends, however it ends.

    Only Linux can do that; elsewhere a run goes on without its sweep, and holds its lock.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before it could be asked for
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

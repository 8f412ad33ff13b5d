"""Runs as jobs of SLURM, submitted through submitit.

These outlive the sweep that submitted them: the next one finds each by its number and waits for it.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from distillers.errors import PREEMPTED_STATUS, InputError
from distillers.sweep.job import Job, running
from distillers.sweep.on_ray import EXTRA

DAY = 24 * 60  # minutes that a job may take where nothing else is said
PATIENCE = 60.0  # seconds between SLURM's two signals
REQUEUES = 100  # times that a job which ran out of time is queued anew


class SlurmQueue:
    """Runs as submitted jobs.

    Args:
        save_dir: of the sweep; the jobs' files go to `sweep/slurm` in it.
        threads: CPU cores that a run takes.
        use_gpu: give each run a GPU.
        jobs: jobs in the queue at once; None is all.
        settings: more for submitit's `update_parameters`, "slurm_partition" say; "cluster" is
            "slurm", or "local" to try without one.

    Raises:
        InputError: when submitit is not installed, there is no SLURM, or a setting is unknown.
    """

    def __init__(
        self,
        save_dir: str,
        *,
        threads: int,
        use_gpu: bool,
        jobs: int | None,
        settings: dict[str, Any],
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise InputError(f"--engine slurm needs submitit: {EXTRA}") from error
        cluster = settings.pop("cluster", "slurm")
        self.folder = Path(save_dir).resolve() / "sweep" / "slurm"
        mine = {"timeout_min": DAY, "cpus_per_task": threads, "gpus_per_node": int(use_gpu)}
        try:
            self._executor = submitit.AutoExecutor(
                self.folder, cluster=cluster, slurm_max_num_timeout=REQUEUES
            )
            self._executor.update_parameters(**{**mine, **settings})
        except (AssertionError, NameError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--slurm: {error}") from error
        self._gpu = "0" if use_gpu else "cpu"
        self._jobs = jobs
        self._running: list[tuple[Job, Any]] = []

    def room(self) -> bool:
        """Whether another run may be submitted now."""
        return self._jobs is None or len(self._running) < self._jobs

    def start(self, job: Job) -> None:
        """Submit a run, or follow the job that an earlier sweep submitted for it."""
        self._running.append((job, self._earlier(job) or self._submit(job)))

    def ended(self) -> list[tuple[Job, int]]:
        """The runs that ended since the last call, with their exit status; 1 for a lost job."""
        from submitit.core import utils

        lost = (utils.UncompletedJobError, utils.FailedJobError)
        over = [entry for entry in self._running if entry[1].done()]
        ended = []
        for job, submitted in over:
            self._running.remove((job, submitted))
            self._number(job).unlink(missing_ok=True)
            try:
                ended.append((job, submitted.result()))
            except lost as error:
                job.note(f"SLURM job {submitted.job_id}: {error}")
                ended.append((job, 1))
        return ended

    def stop(self) -> None:
        """Leave the jobs in the queue: the next sweep goes on with them."""
        numbers = " ".join(submitted.job_id for _, submitted in self._running)
        if numbers:
            print(f"these jobs stay in the queue; `scancel {numbers}` would end them.")

    def _submit(self, job: Job) -> Any:
        submitted = self._executor.submit(Submitted(job, self._gpu))
        self._number(job).write_text(submitted.job_id)
        return submitted

    def _earlier(self, job: Job) -> Any | None:
        path = self._number(job)
        if not path.is_file() or not path.read_text():
            return None
        earlier = self._executor._executor.job_class(self.folder, path.read_text())
        waits = not earlier.done(force_check=True) and earlier.state.upper() != "UNKNOWN"
        return earlier if waits else None  # of an unknown one, the run's lock takes care

    def _number(self, job: Job) -> Path:
        return self.folder / f"{Path(job.folder).name}.number"


class Submitted:
    """What a job does: the run, and when SLURM wants the machine back, queue itself anew."""

    def __init__(self, job: Job, gpu: str) -> None:
        self.job, self.gpu = job, gpu
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run to the end; the exit status."""
        with running(self.job, self.gpu) as process:
            self.process = process
            status = process.wait()
        if status in (
            -signal.SIGTERM,
            PREEMPTED_STATUS,
        ):  # SLURM's first signal; `checkpoint` has the next
            time.sleep(PATIENCE)
        return status

    def checkpoint(self) -> Any:
        """Called by submitit before the job is taken off: the run saves, and goes on later.

        The call comes from a signal, in the middle of `Popen.wait`, whose lock is not to be had.
        """
        import submitit

        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(ChildProcessError):  # it has ended
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Submitted(self.job, self.gpu))

"""Runs as SLURM jobs, submitted through submitit.

Jobs outlive the sweep that submitted them; the next sweep finds them by their ids and waits.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from typing_extensions import override

from distillers.errors import PREEMPTED_STATUS, InputError, install_command
from distillers.sweep.executors import Executor, Resources
from distillers.sweep.executors.job import Job

DEFAULT_TIMEOUT = 24 * 60  # minutes
REQUEUE_SECONDS = 60.0  # longest time between the two signals of SLURM
MAX_REQUEUES = 100  # after timeouts


class SlurmExecutor(Executor[Any]):
    """Runs as submitted jobs.

    Args:
        save_dir: folder of the sweep; files of the jobs go to `sweep/slurm` in it.
        resources: what each run gets; runs do not share GPUs.
        options: more arguments of submitit's `update_parameters`, as "slurm_partition"; "cluster"
            is "slurm", or "local" to try it without SLURM.

    Raises:
        InputError: if submitit is not installed, there is no SLURM, or an option is unknown.
    """

    def __init__(self, save_dir: str, resources: Resources, options: dict[str, Any]) -> None:
        super().__init__(resources.threads, resources.max_jobs)
        try:
            import submitit
        except ImportError as error:
            raise InputError(
                f"--engine slurm needs submitit: {install_command('sweep')}"
            ) from error
        self._folder = Path(save_dir).resolve() / "sweep" / "slurm"
        options = {
            "timeout_min": DEFAULT_TIMEOUT,
            "cpus_per_task": resources.threads,
            "gpus_per_node": int(resources.use_gpu),
            **options,
        }
        try:
            self._executor = submitit.AutoExecutor(
                self._folder,
                cluster=options.pop("cluster", "slurm"),
                slurm_max_num_timeout=MAX_REQUEUES,
            )
            self._executor.update_parameters(**options)
        except (AssertionError, NameError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--slurm: {error}") from error
        self._gpu = "0" if resources.use_gpu else "cpu"

    @override
    def _start(self, job: Job) -> Any:
        """Submit the run, or follow the job that an earlier sweep submitted for it."""
        submitted = self._find_submitted(job)
        if submitted is None:
            submitted = self._executor.submit(SlurmTask(job, self._gpu))
            self._id_file(job).write_text(submitted.job_id)
        return submitted

    @override
    def _finished(self) -> list[tuple[Job, int]]:
        finished = [(job, handle) for job, handle in self._running.items() if handle.done()]
        return [(job, self._status(job, handle)) for job, handle in finished]

    def _status(self, job: Job, submitted: Any) -> int:
        from submitit.core import utils

        self._id_file(job).unlink(missing_ok=True)
        try:
            return submitted.result()
        except (utils.UncompletedJobError, utils.FailedJobError) as error:
            job.append_to_log(f"SLURM job {submitted.job_id}: {error}")
            return 1

    @override
    def shutdown(self) -> None:
        """Leave the jobs in the queue; the next sweep continues with them."""
        ids = " ".join(submitted.job_id for submitted in self._running.values())
        if ids:
            print(f"these jobs stay in the queue; `scancel {ids}` would end them.")

    def _find_submitted(self, job: Job) -> Any | None:
        path = self._id_file(job)
        if not path.is_file() or not path.read_text():
            return None
        earlier = self._executor._executor.job_class(self._folder, path.read_text())
        active = not earlier.done(force_check=True) and earlier.state.upper() != "UNKNOWN"
        return earlier if active else None  # an unknown job that still runs holds the run's lock

    def _id_file(self, job: Job) -> Path:
        return self._folder / f"{Path(job.folder).name}.number"


class SlurmTask:
    """What a SLURM job executes: the run; it is queued again when SLURM needs the machine."""

    def __init__(self, job: Job, gpu: str) -> None:
        self.job, self.gpu = job, gpu
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run to the end and return the exit status."""
        with self.job.running(self.gpu) as process:
            self.process = process
            status = process.wait()
        # SLURM's first signal stopped the run; its second calls `checkpoint`
        if status in (-signal.SIGTERM, 128 + signal.SIGTERM, PREEMPTED_STATUS):
            time.sleep(REQUEUE_SECONDS)
        return status

    def checkpoint(self) -> Any:
        """Stop the run, which saves its state, and return what submitit is to queue again.

        submitit calls this in a signal handler, possibly within `Popen.wait`, whose lock is then
        not available.
        """
        import submitit

        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(ChildProcessError):  # it has ended
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(SlurmTask(self.job, self.gpu))

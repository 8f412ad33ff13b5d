"""Runs on a Ray cluster, or on one that is started on this machine for the sweep.

A Ray worker starts each run as a process, which ends with the worker, as the worker does with the
sweep. All machines of a cluster must see the same files under the same paths.
"""

import logging
import os
from typing import Any

from typing_extensions import override

from distillers.config.cpus import usable_cpus
from distillers.errors import InputError, install_command
from distillers.sweep.executors import Executor, Resources
from distillers.sweep.executors.job import Job

SHUTDOWN_SECONDS = 60


class RayExecutor(Executor[Any]):
    """Runs as Ray tasks on the cluster at `address`, or on one that is started here.

    Raises:
        InputError: if Ray is not installed, or the cluster cannot be reached or is too small.
    """

    def __init__(self, address: str | None, resources: Resources) -> None:
        super().__init__(resources.threads, resources.max_jobs)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no connection to the outside
        try:
            import ray
        except ImportError as error:
            raise InputError(f"--engine ray needs Ray: {install_command('sweep')}") from error
        self._ray = ray
        try:
            ray.init(
                address or "local",
                num_cpus=None if address else usable_cpus(),
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
        has_gpus = resources.use_gpu and ray.cluster_resources().get("GPU", 0) > 0
        self._gpu = "0" if has_gpus else "cpu"  # Ray shows a worker only its own GPU
        cpus, gpus = resources.threads, 1 / resources.per_gpu if has_gpus else 0
        self._check_capacity(cpus, gpus)
        self._task = ray.remote(run_to_end).options(num_cpus=cpus, num_gpus=gpus)

    @override
    def _start(self, job: Job) -> Any:
        return self._task.remote(job, self._gpu)

    @override
    def _finished(self) -> list[tuple[Job, int]]:
        jobs = {reference: job for job, reference in self._running.items()}
        ready, _ = self._ray.wait(list(jobs), num_returns=len(jobs), timeout=0)
        return [(jobs[reference], self._status(jobs[reference], reference)) for reference in ready]

    def _status(self, job: Job, reference: Any) -> int:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            job.append_to_log(f"Ray lost the run: {error}")
            return 1

    @override
    def shutdown(self) -> None:
        references = list(self._running.values())
        for reference in references:
            self._ray.cancel(reference)  # raises KeyboardInterrupt in `run_to_end`
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=SHUTDOWN_SECONDS)
        self._ray.shutdown()

    def _check_capacity(self, cpus: int, gpus: float) -> None:
        """Raise if no machine of the cluster can ever execute a run."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
            self._ray.shutdown()
            raise InputError(
                f"no machine of the Ray cluster has {cpus} cores{' and a GPU' if gpus else ''} "
                "for a run; choose fewer --threads."
            )


def run_to_end(job: Job, gpu: str) -> int:
    """Run a job on the machine that Ray chose, and return its exit status."""
    with job.running(gpu) as process:
        return process.wait()

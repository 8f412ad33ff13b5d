"""Runs on a Ray cluster, or on one that is started on this machine for the sweep alone.

A run is a process that the Ray worker starts; it ends with the worker, and the worker ends with the
sweep. All machines of a cluster see the same files under the same paths.
"""

import logging
import os

from distillers.errors import InputError
from distillers.sweep.job import Job, running

EXTRA = 'pip install "distillers[sweep]"'


class RayCluster:
    """Runs as Ray tasks.

    Args:
        address: of a cluster that is there, or None to start one here.
        cores: of the CPU, of a cluster that is started here.
        threads: CPU cores that a run takes.
        per_gpu: runs that share a GPU.
        cpu_only: leave GPUs alone.
        jobs: runs at once; None leaves that to Ray.

    Raises:
        InputError: when Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        address: str | None,
        *,
        cores: int,
        threads: int,
        per_gpu: int,
        cpu_only: bool,
        jobs: int | None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would ask an address outside
        try:
            import ray
        except ImportError as error:
            raise InputError(f"--engine ray needs Ray: {EXTRA}") from error
        self._ray = ray
        try:
            ray.init(
                address or "local",
                num_cpus=None if address else cores,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
        has_gpus = not cpu_only and ray.cluster_resources().get("GPU", 0) > 0
        self._needs = {"num_cpus": threads, "num_gpus": 1 / per_gpu if has_gpus else 0}
        self._check_room()
        self._remote = ray.remote(carry_out)
        self._jobs = jobs
        self._running: dict = {}

    def room(self) -> bool:
        """Whether another run may be queued now."""
        return self._jobs is None or len(self._running) < self._jobs

    def start(self, job: Job) -> None:
        """Queue a run."""
        gpu = "0" if self._needs["num_gpus"] else "cpu"  # Ray shows a worker its own GPU only
        self._running[self._remote.options(**self._needs).remote(job, gpu)] = job

    def ended(self) -> list[tuple[Job, int]]:
        """The runs that ended since the last call, with their exit status; 1 for a lost worker."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        ended = []
        for reference in ready:
            job = self._running.pop(reference)
            try:
                ended.append((job, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                job.note(f"Ray lost the run: {error}")
                ended.append((job, 1))
        return ended

    def stop(self) -> None:
        """Let every run save what it can, and end."""
        for reference in self._running:
            self._ray.cancel(reference)  # raises KeyboardInterrupt in `carry_out`
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=60)
        self._ray.shutdown()

    def _check_room(self) -> None:
        """Refuse what no machine of the cluster can ever run."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cpus, gpus = self._needs["num_cpus"], self._needs["num_gpus"]
        if not any(m.get("CPU", 0) >= cpus and m.get("GPU", 0) >= gpus for m in machines):
            self._ray.shutdown()
            raise InputError(
                f"no machine of the Ray cluster has {cpus} cores{' and a GPU' if gpus else ''} "
                "for a run; choose fewer --threads."
            )


def carry_out(job: Job, gpu: str) -> int:
    """Run a job to its end, on the machine that Ray chose; its exit status."""
    with running(job, gpu) as process:
        return process.wait()

"""CPUs that this process may use, and how OpenMP threads wait; nothing here imports torch."""

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

# How long an idle thread polls for work before it sleeps. The defaults, milliseconds, make a busy
# machine slow, because threads poll while those that they wait for have no core; sleeping at once
# makes small networks slow on a quiet machine. Measured in benchmarks/LOG.md.
WAIT = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


def set_openmp_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment variables of OpenMP that the user has not set.

    They have an effect only if torch is imported later, and are inherited by child processes.
    """
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in WAIT.items():
            environment.setdefault(name, value)
    allowed = usable_cpus()
    if allowed < _num_cpus():  # OpenMP knows the affinity but no quota
        environment.setdefault("OMP_NUM_THREADS", str(allowed))


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use: by affinity and by cgroup quota."""
    quota = min(_quotas(), default=math.inf)
    return max(1, int(min(_num_cpus(), quota)))


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Yield the quota in CPUs of each control group that this process is in."""
    try:
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / "cpu" if controllers else CGROUPS
        path = PurePosixPath(name)
        for group in (path, *path.parents):
            yield from _quota(root / str(group).lstrip("/"), bool(controllers))


def _quota(group: Path, is_v1: bool) -> Iterator[float]:
    try:
        if is_v1:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        else:
            quota, period = (group / "cpu.max").read_text().split()
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):  # no such group seen from here, or no limit
        return

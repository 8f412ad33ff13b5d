"""Distribution of runs over the devices of a machine."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from distillers.errors import InputError
from distillers.sweep.executors.local import LocalExecutor, Slots, divide_machine, selected_gpus
from tests.sweep.test_run_job import wait_for

NONE = None
SHARES = {  # gpus, cores, per_gpu, jobs, threads: the devices and the threads of each run
    ((), 8, 1, NONE, NONE): (("cpu",) * 8, 1),
    ((), 8, 1, NONE, 3): (("cpu",) * 2, 3),
    ((), 8, 1, 3, NONE): (("cpu",) * 3, 2),
    ((), 2, 1, 5, NONE): (("cpu",) * 5, 1),
    ((), 2, 1, NONE, 4): (("cpu",), 4),
    (("0", "1"), 8, 1, NONE, NONE): (("0", "1"), 4),
    (("0", "1"), 8, 2, NONE, NONE): (("0", "1", "0", "1"), 2),
    (("0", "1"), 8, 2, 3, 1): (("0", "1", "0"), 1),
    (("3",), 1, 4, NONE, NONE): (("3",) * 4, 1),
}


@pytest.mark.parametrize("machine", SHARES)
def test_a_machine_is_divided(machine):
    assert divide_machine(*machine) == Slots(*SHARES[machine])


def test_more_jobs_than_the_gpus_take_are_refused():
    with pytest.raises(InputError, match="--jobs is 3, but 1 GPUs with --per_gpu 2 take 2 runs"):
        divide_machine(("0",), 8, 2, 3, None)


def test_the_cpu_is_no_gpu():
    assert selected_gpus("cpu") == ()


@dataclass(eq=False)
class Sleeper:
    """A fake job: a process that sleeps for a minute."""

    processes: list = field(default_factory=list)
    gpu: str = ""

    def start(self, gpu):
        self.gpu = gpu
        words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        process.stdout.readline()
        self.processes.append(process)
        return process


def test_a_device_is_reused_when_its_run_ends():
    pool = LocalExecutor(Slots(("0", "1", "0"), 1))
    first, second, third = Sleeper(), Sleeper(), Sleeper()
    for job in (first, second, third):
        assert pool.has_room()
        pool.submit(job)
    assert [job.gpu for job in (first, second, third)] == ["0", "1", "0"]
    assert not pool.has_room()
    assert pool.pop_finished() == []
    second.processes[0].kill()
    ended = []
    wait_for(lambda: ended.extend(pool.pop_finished()) or ended)
    assert ended == [(second, -9)]
    assert pool.pop_finished() == []
    last = Sleeper()
    pool.submit(last)
    assert last.gpu == "1"
    pool.shutdown()
    for job in (first, third, last):
        assert job.processes[0].returncode == -15
        job.processes[0].stdout.close()
    second.processes[0].stdout.close()

"""One command on several processes: what it saves, and what becomes of it when one is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distillers.cli import launch
from distillers.cli import main as cli
from distillers.config.train import TrainConfig
from distillers.distributed.rendezvous import (
    Rendezvous,
    device_of,
    first_host,
    listen,
    read_environment,
)
from distillers.distributed.world import World
from distillers.errors import InputError
from tests.processes import free_port, together

ROOT = Path(__file__).parents[2]
FLAGS = ["--dataset", "digits", "--model", "tests.nets:tiny", "--batch_size", "256"]
FLAGS += ["--epochs", "30", "--lr_decay_epochs", "20"]
LAST = "tests.nets-tiny_last.pth"


def started(folder: Path, *more: str, devices: str = "cpu,cpu") -> subprocess.Popen:
    words = [sys.executable, str(ROOT / "train_teacher.py"), *FLAGS, "--gpu_id", devices, *more]
    if "," in devices:
        words += ["--multiprocessing-distributed", "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen, status: int = 0) -> str:
    out, err = process.communicate(timeout=250)
    assert process.returncode == status, err
    return out + err


def state(folder: Path) -> dict:
    (path,) = (p for p in folder.rglob(LAST) if not p.parent.is_symlink())
    return torch.load(path, weights_only=True)


def wait_for_epoch(process: subprocess.Popen, epoch: int) -> None:
    for line in process.stderr:
        if f"epoch {epoch}/" in line:
            return
    raise AssertionError("it ended before")


def children_of(process: subprocess.Popen) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in text.split()}
    return [int(pid) for pid, name in names.items() if "spawn_main" in name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    ended(started(folder))
    return folder


def test_a_signal_saves_all_processes_at_one_step_and_the_run_goes_on_to_the_same_bits(
    whole, tmp_path
):
    process = started(tmp_path)
    wait_for_epoch(process, 2)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    told = ended(process, 75)
    assert time.monotonic() - began < 30
    assert "stopped by SIGTERM" in told
    assert state(tmp_path)["epoch"] < 30
    ended(started(tmp_path, "--resume"))
    found, expected = state(tmp_path)["model"], state(whole)["model"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_several_processes_save_scores_what_they_reported(whole, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    best = next(p for p in whole.rglob("*_best.pth") if not p.parent.is_symlink())
    reported = torch.load(best, weights_only=True)["best_acc"]
    assert cli.run("evaluate", [str(best), "--model", "tests.nets:tiny"]) == 0
    assert f"test_acc       {reported!r}" in capsys.readouterr().out


def test_a_process_that_dies_takes_the_others_down_in_seconds(tmp_path):
    process = started(tmp_path)
    wait_for_epoch(process, 1)
    os.kill(children_of(process)[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=100)
    assert time.monotonic() - began < 20
    assert process.returncode in (4, 128 + signal.SIGKILL), err
    assert "Traceback" not in err
    assert err.count("error: ") <= 1
    assert state(tmp_path)["epoch"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped_is_lost_after_the_timeout(rank, tmp_path):
    process = started(tmp_path, "--dist_timeout", "6")
    wait_for_epoch(process, 1) if rank else time.sleep(8)  # rank 0 prints
    began = time.monotonic()
    os.kill(children_of(process)[rank], signal.SIGSTOP)
    line = next(line for line in process.stderr if "error: " in line)
    assert f"process {1 - rank} of 2 lost the others in " in line
    assert time.monotonic() - began < 20
    _, err = process.communicate(timeout=100)
    assert process.returncode == 4
    assert "Traceback" not in err
    assert "error" not in err


@pytest.mark.slow
def test_another_number_of_processes_goes_on_and_says_what_differs(whole, tmp_path):
    process = started(tmp_path)
    wait_for_epoch(process, 1)
    process.send_signal(signal.SIGUSR1)
    ended(process, 75)
    told = ended(started(tmp_path, "--resume", devices="cpu"))
    assert "resumed by 1 process instead of 2" in told
    assert state(tmp_path)["epoch"] == 30


@pytest.mark.slow
def test_torchrun_starts_a_crashed_run_again_by_itself(whole, tmp_path):
    """The second process dies once, in its second epoch."""
    (tmp_path / "dies.py").write_text(
        "import os, signal, sys\n"
        "from distillers.cli import main as cli\n"
        "from distillers.training import trainer as train\n"
        "original = train.Trainer.train_epoch\n"
        "def dying(self, loader, start, *rest):\n"
        "    if start.epoch == 2 and self.world.rank and not os.path.exists('died'):\n"
        "        open('died', 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, loader, start, *rest)\n"
        "train.Trainer.train_epoch = dying\n"
        "sys.exit(cli.run('teacher', sys.argv[1:]))\n"
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--max-restarts", "1", "--master-port", str(free_port()), "dies.py", *FLAGS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*words, "--gpu_id", "cpu"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    found, expected = state(tmp_path)["model"], state(whole)["model"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rendezvous()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a",
          "MASTER_PORT": "1"}, Rendezvous(3, 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Rendezvous(0, 1, 0)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Rendezvous()),  # the batch script itself
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
          "SLURM_STEP_NODELIST": "node[07-08,11]", "SLURM_JOB_ID": "41234"},
         Rendezvous(5, 8, 1, "tcp://node07:21234")),
    ],
)  # fmt: skip
def test_the_environment_tells_where_processes_meet(environment, expected):
    assert read_environment(environment) == expected


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[003,9]", "n003"), ("r1n[2-4]x,q", "r1n2x")],
)
def test_the_first_machine_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


def test_half_an_environment_is_told():
    with pytest.raises(InputError, match="MASTER_ADDR and MASTER_PORT"):
        read_environment({"RANK": "0", "WORLD_SIZE": "2"})


def test_devices_are_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(()) == torch.device("cuda:0")
    assert device_of((), 1, shared=True) == torch.device("cuda:1")
    assert device_of(("1", "0"), 0, shared=True) == torch.device("cuda:1")
    assert device_of(("cpu",), 3, shared=True) == torch.device("cpu")
    for devices, rank, shared, message in [
        (("2",), 0, False, "there are 2"),
        (("0", "1"), 0, False, "add --multiprocessing-distributed"),
        (("0",), 1, True, "Start as many processes as GPUs"),
        (("gpu",), 0, False, "must be numbers of GPUs"),
    ]:
        with pytest.raises(InputError, match=message):
            device_of(devices, rank, shared)


def test_one_process_is_a_world_of_its_own():
    world = World()
    assert world.gather({"a": 1}) == [{"a": 1}]
    assert world.broadcast_object(3) == world.run_on_rank0(lambda: 3) == 3
    assert world.all_reduce_max([2, 5]) == [2, 5]
    with pytest.raises(InputError, match="wrong"), world.at("here"):
        world.run_on_rank0(lambda: (_ for _ in ()).throw(InputError("wrong")))


def leave_with_a_gather_just_done() -> None:
    """End while a thread of gloo's waits for the interpreter's lock, to let go of tensors."""
    torch.kept = dist.group.WORLD
    dist.barrier()
    sys.setswitchinterval(100)  # seconds for which this thread is not asked to pass the lock on
    dist.all_gather([torch.ones(3), torch.ones(3)], torch.ones(3), async_op=True)
    sum(range(40_000_000))  # longer, without giving it away, than the other process may be late


def test_a_group_that_is_remembered_does_not_abort_its_process():
    together(2, leave_with_a_gather_just_done)


def test_runs_that_start_at_once_without_an_address_get_different_ports():
    host, port = launch._address(TrainConfig.dist_url)
    stores = [listen(host, port) for _ in range(3)]
    assert len({store.port for store in stores}) == 3


def test_a_port_that_was_given_is_that_port_and_refused_while_in_use():
    url = f"tcp://127.0.0.1:{free_port()}"
    host, port = launch._address(url)
    store = launch._open_store(url, host, port)
    assert store.port == port
    with pytest.raises(InputError, match="where this machine cannot listen: Address already"):
        launch._open_store(url, host, port)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")
def test_nothing_listens_to_other_machines_on_loopback():
    store = listen("127.0.0.1", 0)
    port = f"{store.port:04X}"
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    rows = [
        line.split() for path in tables if path.exists() for line in path.read_text().splitlines()
    ]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")]
    assert listening == [f"0100007F:{port}"]

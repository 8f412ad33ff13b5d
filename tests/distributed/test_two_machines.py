"""Two machines, as two network namespaces: they meet, a cable is cut, and they go on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
HOSTS = ("distil-a", "distil-b")
TIMEOUT = 20
FLAGS = ["--dataset", "digits", "--model", "tests.nets:tiny", "--batch_size", "256"]
FLAGS += ["--epochs", "60", "--lr_decay_epochs", "40", "--gpu_id", "cpu"]
FLAGS += ["--dist_timeout", str(TIMEOUT)]
LAST = "tests.nets-tiny_last.pth"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def can_make_hosts() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    tried = subprocess.run(["ip", "netns", "add", HOSTS[0]], capture_output=True)
    if tried.returncode == 0:
        ip("netns", "del", HOSTS[0])
    return tried.returncode == 0


@pytest.fixture
def hosts():
    """Two hosts with a cable between them; the cable ends are called as the hosts."""
    if not can_make_hosts():
        pytest.skip("needs the right to make network namespaces, and iproute2")
    for host in HOSTS:
        ip("netns", "add", host)
    try:
        ip("link", "add", HOSTS[0], "type", "veth", "peer", "name", HOSTS[1])
        for number, host in enumerate(HOSTS, start=1):
            ip("link", "set", host, "netns", host)
            ip("-n", host, "addr", "add", f"10.99.0.{number}/24", "dev", host)
            ip("-n", host, "link", "set", host, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


def started(host: str, folder: Path, attempt: int, *more: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    words = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"]
    words += ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    words += ["--rdzv-id", str(attempt), "--rdzv-endpoint", f"10.99.0.1:{29500 + attempt}"]
    words += ["--rdzv-conf", f"is_host={int(host == HOSTS[0])}"]
    words += ["--local-addr", f"10.99.0.{1 + HOSTS.index(host)}"]
    words += [str(ROOT / "train_teacher.py"), *FLAGS, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"GLOO_SOCKET_IFNAME": host, "TP_SOCKET_IFNAME": host}
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def state(folder: Path) -> dict | None:
    found = [p for p in folder.rglob(LAST) if not p.parent.is_symlink()]
    return torch.load(found[0], weights_only=True) if found else None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_cut_off_ends_the_run_in_time_and_both_go_on_to_the_same_bits(hosts, tmp_path):
    whole = [started(host, tmp_path / f"whole-{host}", 0) for host in hosts]
    for process in whole:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out + err

    shared = tmp_path / "shared"
    processes = [started(host, shared, 1) for host in hosts]
    for _ in range(1200):
        if any(p for p in shared.rglob(LAST)):
            break
        time.sleep(0.1)
    ip("-n", hosts[1], "link", "set", hosts[1], "down")
    cut = time.monotonic()
    _, told = processes[0].communicate(timeout=150)
    assert time.monotonic() - cut < 3 * TIMEOUT
    assert processes[0].returncode
    assert "lost the others in epoch" in told, told
    assert 0 < state(shared)["epoch"] < 60
    # the agent of the machine that was cut off from the meeting place goes on looking for it
    processes[1].kill()
    _, told = processes[1].communicate(timeout=60)
    assert "lost the others in epoch" in told, told

    ip("-n", hosts[1], "link", "set", hosts[1], "up")
    for process in [started(host, shared, 2, "--resume") for host in hosts]:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out + err
    folder = next(tmp_path / f"whole-{host}" for host in hosts if state(tmp_path / f"whole-{host}"))
    found, expected = state(shared)["model"], state(folder)["model"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)

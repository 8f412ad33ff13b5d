"""CPUs that a process may use, and OpenMP's defaults."""

import os
import subprocess
import sys

import pytest

from distillers.config import cpus


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write control groups: the content of /proc/self/cgroup, and files by path."""

    def write(own, files):
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(cpus, "OWN_CGROUP", tmp_path / "own")
        monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
        monkeypatch.setattr(cpus, "_num_cpus", lambda: 8)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)

    return write


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/seen/elsewhere\n", {"cpu.max": "300000 100000"}, 3),
        (
            "4:cpu,cpuacct:/x\n2:memory:/y\n",
            {"cpu/x/cpu.cfs_quota_us": "400000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("0::/\n", {"cpu.max": "junk"}, 8),
        ("0::/\n", {}, 8),
    ],
)
def test_the_quota_of_every_control_group_counts(own, files, expected, groups):
    groups(own, files)
    assert cpus.usable_cpus() == expected


def test_the_quota_sets_the_number_of_threads_unless_the_user_did(groups):
    groups("0::/\n", {"cpu.max": "200000 100000\n"})
    found, given = {}, {"OMP_NUM_THREADS": "5"}
    cpus.set_openmp_defaults(found)
    cpus.set_openmp_defaults(given)
    assert found == {**cpus.WAIT, "OMP_NUM_THREADS": "2"}
    assert given["OMP_NUM_THREADS"] == "5"


def test_without_a_quota_the_number_of_threads_is_left_to_torch(groups):
    groups("0::/\n", {"cpu.max": "max 100000\n"})
    found = {}
    cpus.set_openmp_defaults(found)
    assert found == cpus.WAIT


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_set_stays(given, groups):
    groups("", {})
    found = dict(given)
    cpus.set_openmp_defaults(found)
    assert {name: found[name] for name in given} == given
    assert "GOMP_SPINCOUNT" in found or "OMP_WAIT_POLICY" in found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_pinned_process_uses_its_own_cpus():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from distillers.config.cpus import usable_cpus; assert usable_cpus() == 1;"
        "import torch; assert torch.get_num_threads() == 1"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("program", ["train_teacher.py", "-m distillers teacher"])
def test_the_commands_set_them_before_torch_is_imported(program, tmp_path):
    """A module on the path that stands in for the import of torch prints what it finds."""
    root = cpus.__file__.rsplit("/distillers/", 1)[0]
    (tmp_path / "torch.py").write_text(
        "import os, sys; print(os.environ['GOMP_SPINCOUNT']); sys.exit(5)"
    )
    words = program.replace("train_teacher.py", f"{root}/train_teacher.py").split()
    environment = {k: v for k, v in os.environ.items() if k not in cpus.WAIT}
    environment["PYTHONPATH"] = f"{tmp_path}:{root}"
    done = subprocess.run(
        [sys.executable, "-P", *words, "--dataset", "digits"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (5, cpus.WAIT["GOMP_SPINCOUNT"]), done.stderr

"""Full disks, killed processes and several at once; and what all this takes of memory."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from distillers.distillation.cache import maintenance
from distillers.distillation.cache.loader import CachedTeacherLoader
from distillers.distillation.cache.part import RECORD
from distillers.errors import InputError
from tests.distillation.cache.fakes import (
    build,
    contents,
    image_set,
    loader_of,
    open_at,
    task_of,
    teacher_of,
    wanted,
)


def test_a_disk_that_fills_up_ends_the_run_and_the_cache_stays_usable(tmp_path, monkeypatch):
    build(tmp_path / "whole")
    source, task = image_set(), task_of(teacher_of())
    cache = open_at(wanted(tmp_path / "full", source), task)
    write, left = os.pwrite, [2000]

    def nearly_full(file, data, offset):
        left[0] -= len(data)
        if left[0] >= 0:
            return write(file, data, offset)
        if left[0] > -len(data):
            return write(file, data[: left[0]], offset)  # as much as there is room for
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", nearly_full)
        with pytest.raises(InputError, match=r"the disk is full.*are valid.*--resume"):
            list(CachedTeacherLoader(loader_of(source), cache).epoch(1))
    build(tmp_path / "full")
    assert contents(tmp_path / "full").keys() == contents(tmp_path / "whole").keys()
    (found,) = maintenance.find_caches(tmp_path / "full")
    assert maintenance.verify(found, repair=False)[1] == 0


LIMITED = """
import resource, sys
from pathlib import Path
from distillers.errors import InputError
from tests.distillation.cache.fakes import build
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    build(Path(sys.argv[1]))
except InputError as error:
    print(error)
"""


def test_a_real_limit_of_the_system_is_told_too(tmp_path):
    words = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "the disk is full: File too large" in done.stdout, done.stderr
    (found,) = maintenance.find_caches(tmp_path)
    assert maintenance.verify(found, repair=False)[1] == 0
    assert sum(part.num_filled() for part in found.parts()) > 0
    build(tmp_path)
    assert all(part.num_filled() == 90 for part in maintenance.find_caches(tmp_path)[0].parts())


def processes():
    """Start fast: they are forks of a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distillation.cache.fakes"])
    return context


def test_two_processes_that_fill_one_cache_agree(tmp_path):
    """Teachers that differ show who wrote: every row is one's or the other's, the same to both."""
    context = processes()
    shifts = (0.0, 0.5)
    ours = [context.Process(target=build, args=(tmp_path, 0.01, s)) for s in shifts]
    for process in ours:
        process.start()
    for process in ours:
        process.join()
        assert process.exitcode == 0
    source, (found,) = image_set(), maintenance.find_caches(tmp_path)
    assert maintenance.verify(found, repair=False)[1] == 0
    assert all(part.num_filled() == 90 for part in found.parts())
    tasks = [task_of(teacher_of(shift=shift)) for shift in shifts]
    caches = [open_at(wanted(tmp_path, source), task) for task in tasks]
    written_by = []
    for batch in loader_of(source, shuffle=False).epoch(1):
        read = [cache.values(batch.images, batch.view)["teacher_logits"] for cache in caches]
        assert torch.equal(*read)
        exact = torch.stack([t.read_teacher(batch.images)["teacher_logits"] for t in tasks])
        near = (exact - read[0]).abs().amax(2) < 2e-3
        assert near.any(0).all()
        written_by += near.int().argmax(0).tolist()
    assert all(cache.num_computed == 0 for cache in caches)


def test_processes_divide_a_cache_among_themselves(tmp_path):
    """Each computes its own part of what one would compute, and none of another's."""
    assert build(tmp_path, rank=1, size=2) == 3 * 15
    assert build(tmp_path, rank=0, size=2) == 3 * 15
    assert build(tmp_path) == 0


def test_a_build_that_is_killed_anywhere_goes_on_where_it_stopped(tmp_path):
    build(tmp_path / "whole")
    context, seen = processes(), [0]
    for pause in (0.0, 0.013, 0.041):
        process = context.Process(target=build, args=(tmp_path / "killed", 0.05))
        process.start()
        deadline = time.monotonic() + 100
        while filled(tmp_path / "killed") <= seen[-1] and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (found,) = maintenance.find_caches(tmp_path / "killed")
        assert maintenance.verify(found, repair=False)[1] == 0
        seen.append(filled(tmp_path / "killed"))
    assert seen == sorted(set(seen)), seen  # each went on, none began again
    assert seen[-1] < 90
    build(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def filled(where):
    """Rows that every part has."""
    files = list(where.glob("*/*.rows"))
    counts = [np.count_nonzero(np.fromfile(file, RECORD)["checksum"]) for file in files]
    return min(counts) if len(counts) == NUM_PARTS else 0


NUM_PARTS = 8  # of a loss that reads everything


MEMORY = """
import sys, torch
from pathlib import Path
from distillers.distillation.cache.folder import CacheFolder
torch.set_num_threads(1)
key = {"format": 1, "teacher": {"model": "m"}, "data": {"name": "d", "images": 1}}
folder = CacheFolder(Path(sys.argv[1]), key)

def resident(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) // 1024

def fill_and_read(name, rows):
    part = folder.part(name, {"shape": [64, 16, 16]}, rows)
    values = torch.randn(20, 64, 16, 16)
    for view in torch.arange(rows).split(20):
        part.write(view.numpy(), values)
    for view in torch.randperm(rows).split(20):
        part.read(view.numpy(), torch.device("cpu"))

fill_and_read("small", 100)
before = [resident(name) for name in ("VmRSS", "RssAnon")]
fill_and_read("large", 4000)
after = [resident(name) for name in ("VmRSS", "RssAnon")]
print(*(b - a for a, b in zip(before, after)))
"""


def test_the_memory_of_a_process_does_not_grow_with_the_cache(tmp_path):
    """131 MB are written and read; neither all resident memory nor the anonymous part grows."""
    words = [sys.executable, "-c", MEMORY, str(tmp_path / "cache")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sum(p.stat().st_size for p in (tmp_path / "cache").iterdir()) > 130e6
    assert all(int(word) < 12 for word in done.stdout.split()), done.stdout

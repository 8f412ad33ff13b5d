"""A run that is killed, at any moment and as often as one likes, ends in the same bits."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from distillers.cli import main as cli
from distillers.errors import CorruptFileError

ROOT = Path(__file__).parents[2]
EPOCHS = 4
FLAGS = ["--dataset", "digits", "--model", "tests.nets:tiny", "--batch_size", "256"]
FLAGS += ["--epochs", str(EPOCHS), "--gpu_id", "cpu", "--lr_decay_epochs", "2", "--ema", "0.9"]
FLAGS += ["--save_minutes", "0.0002"]  # after every step, nearly
LAST = "tests.nets-tiny_last.pth"


def train(save_dir: Path, *more: str) -> int:
    return cli.run("teacher", [*FLAGS, "--save_dir", str(save_dir), *more])


def checkpoint_of(save_dir: Path, name: str = LAST) -> Path:
    found = [p for p in save_dir.rglob(name) if not p.parent.is_symlink()]
    assert len(found) == 1, found
    return found[0]


def results(save_dir: Path) -> tuple[dict, list[dict]]:
    """All that is to be the same: weights, and what was measured, less what was timed."""
    from distillers.training.loggers import read_metrics

    state = torch.load(checkpoint_of(save_dir), weights_only=True)
    rows = read_metrics(checkpoint_of(save_dir).parent)
    for row in rows:
        del row["images_per_second"], row["waited"]
    return {**state["model"], "best": state["best"]["test_acc"]}, rows


class Deadly:
    """A file on which the process is killed between two writes, and within each."""

    def __init__(self, file, tick) -> None:
        self.file, self.tick = file, tick

    def write(self, content) -> None:
        half = len(content) // 2
        self.file.write(content[:half])
        self.file.flush()
        self.tick()
        self.file.write(content[half:])
        self.tick()

    def __enter__(self) -> "Deadly":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def deadly(kill_at: int) -> None:
    """From here on, this process kills itself at so manieth boundary of its writing."""
    count = iter(range(10**9))

    def tick() -> None:
        if next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def opened(path: Path, mode: str = "r", *args, **kwargs):
        file = open(path, mode, *args, **kwargs)  # noqa: SIM115
        return Deadly(file, tick) if "w" in mode else file

    def replaced(path: Path, target: Path) -> Path:
        tick()
        os.replace(path, target)
        tick()
        return Path(target)

    Path.open, Path.replace = opened, replaced


def killed(save_dir: Path, kill_at: int | None, seconds: float | None) -> bool:
    """Run, in a fork, until the end or the kill; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            out = os.open(os.devnull, os.O_WRONLY)
            os.dup2(out, 1)
            os.dup2(out, 2)
            if kill_at is not None:
                deadly(kill_at)
            os._exit(train(save_dir, "--resume"))
        except BaseException:
            save_dir.with_suffix(".error").write_text(traceback.format_exc())
        finally:
            os._exit(99)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    error = save_dir.with_suffix(".error")
    assert os.WEXITSTATUS(status) == 0, error.read_text() if error.exists() else status
    return False


def survive(save_dir: Path, kills: int, seed: int) -> list[Path]:
    """Kill runs so many times in all, going on with each until it is done; their folders."""
    from distillers.checkpoints import io as checkpoint

    draw, times, folders = random.Random(seed), 0, [save_dir / "0"]
    boundaries = list(range(kills))  # the first ones from each start, all of them once
    draw.shuffle(boundaries)
    while times < kills:
        where = folders[-1]
        if draw.random() < 0.7:
            was_killed = killed(where, boundaries[times], None)
        else:
            was_killed = killed(where, None, draw.uniform(0.0, 1.5))
        times += was_killed
        for path in where.rglob("*.pth"):
            checkpoint.read(path)  # never unreadable
        if not was_killed:
            folders.append(save_dir / str(len(folders)))
    assert not killed(folders[-1], None, None)
    return folders


@pytest.mark.parametrize(
    "kills",
    [pytest.param(12), pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_a_run_that_is_killed_often_ends_in_the_bits_of_one_that_is_not(tmp_path, kills):
    """In a new process: one in which autograd has threads, as after other tests, cannot fork."""
    path, code = str(tmp_path), "from tests.training.test_kills import check_kills; check_kills"
    words = [sys.executable, "-c", f"{code}({path!r}, {kills})"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_kills(folder: str, kills: int) -> None:
    """Check that runs that were killed have the bits of one that was not."""
    tmp_path = Path(folder)
    assert train(tmp_path / "whole") == 0
    expected = results(tmp_path / "whole")
    for folder in survive(tmp_path, kills, seed=kills):
        weights, rows = results(folder)
        assert rows == expected[1]
        assert weights.keys() == expected[0].keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, expected[0][name], rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder) == 0
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_checkpoint_cut_anywhere_is_told_and_the_one_before_taken(finished, capfd):
    last = checkpoint_of(finished)
    whole, before = last.read_bytes(), last.with_name(LAST.replace("last", "previous"))
    try:
        for length in range(0, len(whole), 1000):
            last.write_bytes(whole[:length])
            check_damaged(last)
        assert train(finished, "--resume") == 0
        told = capfd.readouterr().err
        assert f"WARNING: {last}" in told
        assert f"resuming from {before}" in told
        assert torch.load(last, weights_only=True)["epoch"] == EPOCHS
    finally:
        last.write_bytes(whole)


def test_a_flipped_bit_anywhere_is_told(finished):
    last = checkpoint_of(finished)
    whole, draw = bytearray(last.read_bytes()), random.Random(0)
    try:
        for _ in range(60):
            place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
            whole[place] ^= bit
            last.write_bytes(whole)
            check_damaged(last)
            whole[place] ^= bit
    finally:
        last.write_bytes(whole)


def check_damaged(path: Path) -> None:
    from distillers.checkpoints import io as checkpoint

    with pytest.raises(CorruptFileError, match="damaged"):
        checkpoint.read(path)


def test_nothing_readable_left_is_told_and_nothing_is_changed(finished, capfd):
    files = [checkpoint_of(finished, LAST.replace("last", name)) for name in ("last", "previous")]
    kept = [file.read_bytes() for file in files]
    try:
        for file in files:
            file.write_bytes(b"PK\x03\x04 and no more")
        before = contents(finished)
        assert train(finished, "--resume") == 2
        assert "no checkpoint can be read" in capfd.readouterr().err
        assert contents(finished) == before
    finally:
        for file, content in zip(files, kept, strict=True):
            file.write_bytes(content)


def test_a_run_whose_checkpoint_is_gone_is_not_started_anew(finished, tmp_path, capfd):
    run = checkpoint_of(finished).parent
    kept = tmp_path / "kept"
    shutil.copytree(run, kept)
    try:
        for path in run.glob("*.pth"):
            path.unlink()
        before = contents(finished)
        assert train(finished, "--resume") == 2
        assert f"not {LAST} to go on from; restore it, or start anew with" in capfd.readouterr().err
        assert contents(finished) == before
    finally:
        shutil.copytree(kept, run, dirs_exist_ok=True)


@pytest.mark.parametrize("what", ["newer", "another network", "another method"])
def test_a_checkpoint_that_does_not_belong_is_refused(finished, capfd, what):
    from distillers.checkpoints import io as checkpoint

    last = checkpoint_of(finished)
    kept, payload = last.read_bytes(), checkpoint.read(last)
    task = payload["trainer"]["task"]
    if what == "newer":
        payload["format"] += 1
    elif what == "another network":
        task["student.0.0.weight"] = task["student.0.0.weight"][:4].clone()
    else:
        task["losses.rrd.queue"] = torch.zeros(3)
    payload["trainer"]["epoch"] = payload["epoch"] = EPOCHS - 1
    try:
        checkpoint.save(last, payload)
        before = {k: v for k, v in contents(finished).items() if k.suffix == ".pth"}
        assert train(finished, "--resume") == 2
        told = capfd.readouterr().err
        assert ("newer version" if what == "newer" else "another network or method") in told
        assert {k: v for k, v in contents(finished).items() if k.suffix == ".pth"} == before
    finally:
        last.write_bytes(kept)

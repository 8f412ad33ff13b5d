"""The flags and `distillers cache` on real digits, in this process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.config.sizes import format_bytes, num_bytes, num_days
from distillers.data import load
from distillers.data.datasets.images import ImageSet
from distillers.distillation.cache import maintenance, request
from distillers.distillation.cache.folder import CacheFolder
from distillers.errors import InputError
from tests.data.trees import tree
from tests.processes import free_port

CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 32}
DIGITS = ["--dataset", "digits", "--model_s", "resnet8", "--batch_size", "32", "--trial", "0"]
DIGITS += ["--distill", "kd", "-c", "0.1", "-d", "0.9", "-b", "0", "--skip_validation"]
NUM = 96


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with a teacher; digits are small and few."""
    few = load("digits").resized(16).keep(torch.arange(NUM))
    few = ImageSet(**{**vars(few), "test_images": few.test_images[:20],
                      "test_labels": few.test_labels[:20]})  # fmt: skip
    monkeypatch.setattr("distillers.data.datasets.digits.digits", lambda *_: few)
    monkeypatch.chdir(tmp_path)
    teacher("teacher.pth")
    return tmp_path


def teacher(path, seed=0, **card):
    torch.manual_seed(seed)
    card = {**CARD, "image_size": 16} | card
    net = models.create("resnet8", num_classes=card["num_classes"])
    Path(path).parent.mkdir(exist_ok=True)
    checkpoint.save(Path(path), {"model": net.state_dict(), "card": card})


def student(*flags, status=0):
    assert cli.run("student", [*DIGITS, "--path_t", "teacher.pth", *flags]) == status


def rows_of(save_dir):
    (file,) = save_dir.rglob("metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def weights_of(save_dir):
    (file,) = save_dir.rglob("resnet8_last.pth")
    return checkpoint.read(file)["model"]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_cached_run_with_all_views_is_the_run_without_but_for_the_last_digits(there, capsys):
    student("--epochs", "2", "--save_dir", "plain")
    student("--epochs", "2", "--save_dir", "cached", "--teacher_cache", "auto")
    told = capsys.readouterr().out
    assert "teacher cache: logits of 96 images x 81 views, 0 % filled" in told
    assert "cached/teacher_cache/resnet8-digits-" in told
    plain, cached = rows_of(there / "plain"), rows_of(there / "cached")
    assert [row["train_loss"] for row in cached] == pytest.approx(
        [row["train_loss"] for row in plain], rel=2e-3
    )
    assert not same(weights_of(there / "plain"), weights_of(there / "cached"))  # it was used
    (found,) = maintenance.find_caches(there / "cached/teacher_cache")
    (part,) = found.parts()
    assert NUM < part.num_filled() <= 2 * NUM


def test_a_second_run_reads_what_the_first_stored_and_repeats_it_to_the_bit(there, monkeypatch):
    flags = ["--epochs", "2", "--views", "1", "--teacher_cache", "shared"]
    student(*flags, "--save_dir", "a")
    monkeypatch.setattr(
        "distillers.distillation.distillation.Distillation.read_teacher", only_the_probe()
    )
    student(*flags, "--save_dir", "b")
    assert same(weights_of(there / "a"), weights_of(there / "b"))


def only_the_probe():
    from distillers.distillation.distillation import Distillation

    read = Distillation.read_teacher

    def read_two(task, images, number=0):
        assert len(images) == 2
        return read(task, images, number)

    return read_two


def test_an_interrupted_run_goes_on_to_the_same_bits(there, monkeypatch):
    from distillers.training.recorder import RunRecorder

    flags = ["--epochs", "3", "--views", "2"]
    student(*flags, "--save_dir", "whole", "--teacher_cache", "auto")
    on_epoch_end = RunRecorder.on_epoch_end

    def stop(self, row, *others):
        if row["epoch"] == 2:
            raise KeyboardInterrupt
        on_epoch_end(self, row, *others)

    stopped = [*flags, "--save_dir", "stopped", "--teacher_cache", "auto"]
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_epoch_end", stop)
        student(*stopped, status=130)
    student(*stopped, "--resume")
    assert same(weights_of(there / "whole"), weights_of(there / "stopped"))


@pytest.mark.slow
def test_two_processes_of_a_run_fill_and_read_one_cache(tmp_path):
    """The whole data set, as the processes are new ones."""
    teacher(tmp_path / "teacher.pth", image_size=32)
    words = [sys.executable, "-m", "distillers.cli.main", "student", *DIGITS, "--views", "1"]
    words += ["--path_t", "teacher.pth", "--teacher_cache", "auto", "--epochs", "1"]
    words += ["--protocol", "crd"]  # which leaves no image out
    words += ["--multiprocessing-distributed", "--gpu_id", "cpu,cpu"]
    words += ["--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("teacher cache: logits of 1,297 images x 1 views, 0 % filled") == 1
    assert "the teacher ran for 1,297 images" in done.stdout
    (found,) = maintenance.find_caches(tmp_path / "save/teacher_cache")
    assert maintenance.verify(found, repair=False) == (
        [found.title, "  logits: 1,297 rows, all valid"],
        0,
    )


def test_the_folder_of_a_run_tells_what_matters():
    from distillers.config.student import StudentConfig

    def name(**flags):
        return StudentConfig(path_t="t", **flags).folder(1, 1, 0, "t").name

    assert len({name(), name(views=1), name(views=4), name(teacher_cache="auto")}) == 4
    assert name(teacher_cache="auto") == name(teacher_cache="x", cache_budget="1TB")


def test_a_cache_is_built_ahead_shown_checked_and_pruned(there, capsys, monkeypatch):
    build = [*DIGITS, "--path_t", "teacher.pth", "--views", "2"]
    assert cli.run("cache", ["build", *build]) == 0
    assert "computed 192 views; the cache is full" in capsys.readouterr().out
    assert cli.run("cache", ["build", *build]) == 0
    assert "computed 0 views" in capsys.readouterr().out
    monkeypatch.setattr(
        "distillers.distillation.distillation.Distillation.read_teacher", only_the_probe()
    )
    student("--epochs", "2", "--views", "2", "--teacher_cache", "auto")
    capsys.readouterr()

    assert cli.run("cache", ["info"]) == 0
    shown = capsys.readouterr().out
    assert "resnet8 on digits" in shown
    assert "logits (10): 2 views an image" in shown
    assert cli.run("cache", ["verify"]) == 0
    assert "logits: 192 rows, all valid" in capsys.readouterr().out
    (data,) = (there / "save/teacher_cache").rglob("logits.f16")
    flip(data, 20 * 7 + 3)
    assert cli.run("cache", ["verify"]) == 2
    told = capsys.readouterr()
    assert "1 DAMAGED (7)" in told.out
    assert "damaged: 1 row; --repair clears them" in told.err
    assert cli.run("cache", ["verify", "--repair"]) == 0
    assert cli.run("cache", ["verify"]) == 0
    assert "logits: 191 rows, all valid" in capsys.readouterr().out

    assert cli.run("cache", ["prune", "--keep", "0", "--dry_run"]) == 0
    assert "would delete" in capsys.readouterr().out
    assert data.exists()
    assert cli.run("cache", ["prune", "--keep", "0"]) == 0
    assert "deleted save/teacher_cache/resnet8-digits-" in capsys.readouterr().out
    assert list((there / "save/teacher_cache").iterdir()) == []


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def some_caches(where):
    """Three caches, the one with the largest number used last."""
    for number in range(3):
        key = {"format": 1, "teacher": {"model": f"m{number}"}, "data": {"name": "d"}}
        path = where / f"cache{number}"
        part = CacheFolder(path, key).part("logits", {"shape": [500]}, 10)
        part.write(torch.arange(10).numpy(), torch.ones(10, 500))
        os.utime(path / "used", times=(0, path.stat().st_mtime - (2 - number) * 86400))
    return where


def names(where):
    return sorted(path.name for path in where.iterdir())


def test_caches_are_pruned_by_age_and_size_but_not_while_they_are_used(tmp_path):
    where = some_caches(tmp_path)
    one = maintenance.find_caches(where)[0].num_bytes
    assert [round(found.days_unused) for found in maintenance.find_caches(where)] == [2, 1, 0]
    maintenance.prune(
        maintenance.find_caches(where), maintenance.PruneRules(unused_for=1.5), dry_run=False
    )
    assert names(where) == ["cache1", "cache2"]
    held = CacheFolder(where / "cache1", maintenance.find_caches(where)[0].card["key"])
    os.utime(where / "cache1/used", times=(0, 0))
    lines = maintenance.prune(
        maintenance.find_caches(where), maintenance.PruneRules(keep=one + 1), dry_run=False
    )
    assert ": in use" in lines[0]
    assert names(where) == ["cache1", "cache2"]
    del held
    os.utime(where / "cache1/used", times=(0, 0))
    maintenance.prune(
        maintenance.find_caches(where), maintenance.PruneRules(keep=one + 1), dry_run=False
    )
    assert names(where) == ["cache2"]
    maintenance.prune(
        maintenance.find_caches(where), maintenance.PruneRules(older_than=-1), dry_run=False
    )
    assert names(where) == []


def test_what_a_killed_prune_left_is_no_cache_and_goes_with_the_next(tmp_path):
    where = some_caches(tmp_path)
    (where / "cache0").rename(where / ".deleted-cache0")
    assert [found.path.name for found in maintenance.find_caches(where)] == ["cache1", "cache2"]
    maintenance.finish_deletions(where)
    assert names(where) == ["cache1", "cache2"]


def test_more_than_the_budget_is_not_cached_and_that_is_said_before_training(there, capsys):
    student("--epochs", "1", "--views", "4", "--teacher_cache", "auto", "--cache_budget", "6KB")
    told = capsys.readouterr().out
    assert "96 images x 4 views may take 10.8 KB, more than --cache_budget 6KB" in told
    assert "the teacher runs in every step; --views 2 would fit" in told
    assert not (there / "save/teacher_cache").exists()


def test_a_disk_without_room_is_told_before_training(there, capsys, monkeypatch):
    usage = shutil.disk_usage(there)._replace(free=10_000)
    monkeypatch.setattr(request.shutil, "disk_usage", lambda _: usage)
    student("--epochs", "1", "--teacher_cache", "auto", status=2)
    told = capsys.readouterr().err
    assert "may still grow by 218 KB, and 10 KB are free there" in told
    assert not list(there.rglob("metrics.jsonl"))


def test_another_teacher_gets_another_cache_and_is_refused_the_first(there, capsys):
    flags = ["--epochs", "1", "--views", "1"]
    student(*flags, "--teacher_cache", "shared", "--save_dir", "a")
    teacher("other/teacher.pth", seed=1)
    again = [*flags, "--path_t", "other/teacher.pth", "--save_dir", "b"]
    (first,) = (there / "shared").iterdir()
    student(*again, "--teacher_cache", str(first), status=2)
    assert "cache of something else: teacher.weights differ" in capsys.readouterr().err
    student(*again, "--teacher_cache", "shared")
    assert len(list((there / "shared").iterdir())) == 2


def test_images_in_folders_are_cached_by_number_of_views(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "photos")
    teacher("teacher.pth", image_size=32, num_classes=3)
    flags = ["--path_t", "teacher.pth", "--dataset", "folder", "--data_dir", "photos"]
    flags += ["--image_size", "32", "--num_workers", "0", "--model_s", "resnet8", "--epochs", "2"]
    flags += ["--batch_size", "6", "--skip_validation", "--distill", "kd", "-b", "0"]
    assert cli.run("student", [*flags, "--teacher_cache", "auto"]) == 2
    assert "as in --views 4" in capsys.readouterr().err
    flags += ["--views", "2"]
    assert cli.run("student", [*flags, "--teacher_cache", "auto"]) == 0
    assert cli.run("cache", ["build", *flags]) == 0
    assert "computed 0 views" in capsys.readouterr().out
    os.utime(next((tmp_path / "photos/train").rglob("*.JPEG")), times=(0, 0))
    assert cli.run("cache", ["build", *flags]) == 0
    assert "computed 36 views" in capsys.readouterr().out


WRONG = {
    "student --views 0": "--views is 0; it must be",
    "student --views 82": "--views is 82; it must be 1 to 81, or all",
    "student --teacher_cache auto --cache_budget much": "--cache_budget is 'much'; it must be a",
    "student --teacher_cache teacher.pth": "is a file; it must be a folder",
    "cache builds": "no action 'builds', did you mean 'build'",
    "cache prune": "no rule is given",
    "cache prune --unused_for ever": "--unused_for is 'ever'; it must be an age",
    "cache info nowhere": "there is no folder nowhere",
}


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_told_before_anything_is_written(there, capsys, words):
    name, *args = words.split()
    before = sorted(there.rglob("*"))
    if name == "student":
        args = [*DIGITS, "--path_t", "teacher.pth", *args]
    assert cli.run(name, args) == 2
    assert WRONG[words] in capsys.readouterr().err
    assert sorted(there.rglob("*")) == before


def test_sizes_and_ages():
    assert [num_bytes(text, "x") for text in ("20GB", "1.5tb", "7", "3 K", "0")] == [
        20 * 10**9, 15 * 10**11, 7, 3000, 0,
    ]  # fmt: skip
    assert [num_days(text, "x") for text in ("30d", "2w", "12h", "3")] == [30, 14, 0.5, 3]
    assert [format_bytes(n) for n in (7, 1234, 45.9e9, 1.83e12)] == [
        "7 B", "1.23 KB", "45.9 GB", "1.83 TB",
    ]  # fmt: skip
    for text in ("", "GB", "-1GB", "1 PB", "1e9"):
        with pytest.raises(InputError, match="--x is"):
            num_bytes(text, "x")

"""Estimates of teacher caches, compared with real caches."""

import pytest
import torch

from distillers.cli import main as cli
from distillers.config.student import StudentConfig
from distillers.sweep import estimate
from distillers.sweep.cache_costs import CacheSimulation, CacheUse
from distillers.sweep.dry_run import source_opener
from distillers.sweep.expand import expand
from distillers.sweep.grid_file import parse_grid

CPU = torch.device("cpu")
LOGITS, MAPS = CacheUse(4, {"logits": 10.0}), CacheUse(4, {"logits": 10.0, "map": 1000.0})


def config(**flags):
    return StudentConfig(trial=0, protocol="crd", path_t="t.pth", dataset="digits", **flags)


def test_a_view_is_computed_once_for_each_part():
    caches = CacheSimulation()
    assert caches.add(config(epochs=6), LOGITS) == (4, 40)
    assert caches.add(config(epochs=6), LOGITS) == (0, 0)
    assert caches.add(config(epochs=6), MAPS) == (4, 4000)  # the logits are there
    assert caches.add(config(epochs=2), MAPS) == (0, 0)


def test_a_short_run_computes_what_it_sees_and_the_next_run_the_rest():
    caches = CacheSimulation()
    assert caches.add(config(epochs=2), LOGITS) == (2, 20)
    assert caches.add(config(epochs=2), LOGITS) == (1, 10)  # of its two, one was seen
    assert caches.add(config(epochs=4), LOGITS) == (1, 10)


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cifar10"},
        {"teacher_cache": "there"},
        {"path_t": "u.pth"},
        {"val_fraction": 0.1},
    ],
)
def test_other_teachers_images_and_folders_have_separate_caches(other):
    caches = CacheSimulation()
    caches.add(config(epochs=4), LOGITS)
    flags = {"trial": 0, "protocol": "crd", "path_t": "t.pth", "dataset": "digits", **other}
    assert caches.add(StudentConfig(epochs=4, **flags), LOGITS) == (4, 40)


def estimated(tmp_path, monkeypatch, *words, runs=3):
    """Return a student's run on digits with a slow teacher, and its cost."""
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.2)
    fixed = ", ".join(("dataset: digits", "epochs: 3", *words))
    text = f"save_dir: {tmp_path / 'save'}\nfixed: {{{fixed}}}\ntrials: {list(range(runs))}\n"
    grid = parse_grid(f"{text}pairs: [resnet56 -> resnet8]\nmethods: [kd]\n", "here")
    students = [run for run in expand(grid).runs if run.command == "student"]
    return students, estimate.measure_cost(students[0], source_opener()(students[0].config), CPU)


def test_an_epoch_that_reads_the_cache_is_measured_separately(tmp_path, monkeypatch):
    students, cost = estimated(tmp_path, monkeypatch, "teacher_cache: auto", "views: 2")
    assert cost.cached_epoch_seconds < 0.7 * cost.epoch_seconds
    source = source_opener()(students[0].config)
    assert cost.cache_use.view_bytes == {"logits": len(source.train_labels) * (2 * 10 + 8)}
    found = estimate.estimate(students, "nowhere", source_opener(), CPU, lambda _: None)
    assert found.size == 3 * cost.run_bytes + 2 * cost.cache_use.view_bytes["logits"]


def test_a_cache_above_its_budget_saves_nothing(tmp_path, monkeypatch):
    flags = ("teacher_cache: auto", "views: 2", "cache_budget: 100B")
    assert estimated(tmp_path, monkeypatch, *flags)[1].cache_use is None


def test_the_disk_of_a_cache_is_as_estimated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    students, cost = estimated(tmp_path, monkeypatch, "teacher_cache: auto", "views: 2", runs=1)
    teacher = ["--dataset", "digits", "--model", "resnet56", "--epochs", "1"]
    assert cli.run("teacher", teacher) == 0
    words = list(students[0].args)
    words[words.index("--path_t") + 1] = "save/teachers/models/resnet56_vanilla/resnet56_best.pth"
    assert cli.run("student", words) == 0
    files = [p for p in (tmp_path / "save" / "teacher_cache").rglob("logits*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) == 2 * cost.cache_use.view_bytes["logits"]

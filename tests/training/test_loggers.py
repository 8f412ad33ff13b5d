"""What a run's folder tells, and who else is told."""

import importlib.metadata
import json
import random
import sys
import types

import pytest

import distillers
from distillers.cli import main as cli
from distillers.config.run_files import dump_metrics
from distillers.errors import InputError
from distillers.training.loggers import RunLogger, environment, read_metrics
from tests.run_folders import corrupt


def test_a_clone_that_is_not_installed_tells_its_version(monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name == "distillers":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = environment()
    assert found["distillers"] == distillers.__version__
    assert found["torch"]


EPOCHS = 5
ROWS = [{"epoch": n, "train_loss": 1.5 / n, "lr": 0.05, "test_acc": 60.0 + n} for n in range(1, 6)]


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_no_random_damage_to_the_metrics_is_resumed_from_in_silence(count, tmp_path, capsys):
    path, rng = tmp_path / "metrics.jsonl", random.Random(count)
    path.write_bytes(dump_metrics(ROWS))
    assert read_metrics(tmp_path, EPOCHS) == ROWS
    refused = 0
    for _ in range(count):
        path.write_bytes(corrupt(dump_metrics(ROWS), rng))
        try:
            rows = read_metrics(tmp_path, EPOCHS)
        except InputError as error:
            refused += str(error).startswith(f"{tmp_path}: ") and "metrics.jsonl" in str(error)
        else:
            assert rows in (ROWS, []) or "not verified" in capsys.readouterr().err
    assert refused > 0.8 * count


def test_metrics_of_an_earlier_version_are_resumed_from_with_a_message(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert read_metrics(tmp_path, EPOCHS) == ROWS
    assert f"{path} is of an earlier version" in capsys.readouterr().err
    with pytest.raises(InputError, match="ends with epoch 5, not 6"):
        read_metrics(tmp_path, EPOCHS + 1)
    assert read_metrics(tmp_path / "none", EPOCHS) == []


class Page:
    """What Weights & Biases was told of one run."""

    def __init__(self, **asked):
        self.asked, self.rows, self.axes, self.finished = asked, [], {}, False

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True


def test_wandb_is_told_every_epoch_and_knows_the_run_again(tmp_path, monkeypatch):
    pages = []
    package = types.ModuleType("wandb")
    package.init = lambda **asked: pages.append(Page(**asked)) or pages[-1]
    monkeypatch.setitem(sys.modules, "wandb", package)
    for epoch in (0, 1):
        logger = RunLogger(tmp_path / "run", {"trial": 1}, epoch, wandb="mine")
        logger.epoch({"epoch": epoch + 1, "test_acc": 50.0})
        logger.close()
    assert [page.rows for page in pages] == [[{"epoch": n, "test_acc": 50.0}] for n in (1, 2)]
    assert all(page.finished and page.axes == {"*": "epoch"} for page in pages)
    first, second = (page.asked for page in pages)
    assert first == second
    assert first | {"project": "mine", "name": "run", "config": {"trial": 1}} == first
    other = RunLogger(tmp_path / "other", {"trial": 1}, wandb="mine")
    other.close()
    assert pages[-1].asked["id"] != first["id"]


def test_wandb_that_is_not_installed_is_told_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    flags = ["--dataset", "digits", "--model", "resnet8", "--save_dir", str(tmp_path)]
    assert cli.run("teacher", [*flags, "--wandb", "mine"]) == 2
    assert 'pip install -e ".[wandb]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

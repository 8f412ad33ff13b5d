"""What a run's folder tells, and who else is told."""

import importlib.metadata
import sys
import types

import distillers
from distillers.cli import main as cli
from distillers.training.loggers import RunLogger, environment


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
    assert 'pip install "distillers[wandb]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Signals within a run: what is saved, how it ends, and that going on gives the same bits."""

import os
import signal
from pathlib import Path

import pytest
import torch

from distillers.cli import main as cli
from distillers.distributed.world import World
from distillers.training import evaluate, preemption
from distillers.training import metrics as tally
from distillers.training.preemption import PreemptionHandler
from tests.training.test_kills import EPOCHS, FLAGS, checkpoint_of, results, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder) == 0
    return folder


def at_call(patch, owner, name: str, number: int, sent: int) -> None:
    """Send this process a signal at so manieth call of a function."""
    original, count = getattr(owner, name), iter(range(10**6))

    def called(*args, **kwargs):
        if next(count) == number:
            os.kill(os.getpid(), sent)
        return original(*args, **kwargs)

    patch.setattr(owner, name, called)


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_a_signal_in_a_step_saves_it_and_stops(whole, tmp_path, monkeypatch, capfd, sent, status):
    handlers = [signal.getsignal(each) for each in preemption.SIGNALS]
    with monkeypatch.context() as patch:
        at_call(patch, tally.EpochMetrics, "add", 7, sent)
        assert train(tmp_path, "--save_minutes", "0") == status
    assert [signal.getsignal(each) for each in preemption.SIGNALS] == handlers
    assert f"stopped by {sent.name}" in capfd.readouterr().err
    state = torch.load(checkpoint_of(tmp_path), weights_only=True)["trainer"]
    assert (state["epoch"], state["batch"]) == (1, 3)  # 5 steps an epoch
    assert train(tmp_path, "--resume", "--save_minutes", "0") == 0
    same(results(tmp_path), results(whole))


MIXED = "--mixup 0.4 --cutmix 1 --mixup_prob 0.8 --smoothing 0.1"
TWO_VIEWS = "--loss tests.nets:TwoViews --mixup 0.4 --aa rand-m9 --teacher_view weak"
CHANGED = "--aa augmix --reprob 0.3 --aug_repeats 2 --scale 0.5,1 --hflip 0.2 --vflip 0.1"


@pytest.mark.parametrize(
    ("name", "words"), [("teacher", MIXED), ("teacher", CHANGED), ("student", TWO_VIEWS)]
)
def test_a_run_with_changed_images_resumes_to_the_same_bits(
    name, words, whole, tmp_path, monkeypatch
):
    flags = [*FLAGS, *words.split()]
    if name == "student":
        flags[flags.index("--model")] = "--model_s"
        flags += ["--path_t", str(checkpoint_of(whole, "tests.nets-tiny_best.pth"))]
        flags += ["--model_t", "tests.nets:tiny"]

    def run(folder: str, *more: str) -> int:
        return cli.run(name, [*flags, "--save_dir", str(tmp_path / folder), *more])

    assert run("whole") == 0
    with monkeypatch.context() as patch:
        at_call(patch, tally.EpochMetrics, "add", 7, signal.SIGTERM)
        assert run("cut", "--save_minutes", "0") == 75
    assert run("cut", "--resume", "--save_minutes", "0") == 0
    same(results(tmp_path / "cut"), results(tmp_path / "whole"))


def test_a_signal_in_a_long_scoring_is_heeded_at_once(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "LONG_EVALUATION", 0.0)
    with monkeypatch.context() as patch:
        at_call(patch, evaluate, "_count", 2, signal.SIGTERM)  # two batches an epoch
        assert train(tmp_path, "--save_minutes", "0") == 75
    state = torch.load(checkpoint_of(tmp_path), weights_only=True)["trainer"]
    assert (state["epoch"], state["batch"]) == (1, 5)  # trained, not scored
    assert train(tmp_path, "--resume", "--save_minutes", "0") == 0
    same(results(tmp_path), results(whole))


def test_a_signal_in_a_short_scoring_waits_for_its_end(tmp_path, monkeypatch):
    at_call(monkeypatch, evaluate, "_count", 1, signal.SIGTERM)
    assert train(tmp_path, "--save_minutes", "0") == 75
    state = torch.load(checkpoint_of(tmp_path), weights_only=True)["trainer"]
    assert (state["epoch"], state["batch"]) == (1, 1)


def same(found: tuple, expected: tuple) -> None:
    assert found[1] == expected[1]
    assert len(found[1]) == EPOCHS
    assert all(
        torch.equal(torch.as_tensor(found[0][k]), torch.as_tensor(v))
        for k, v in expected[0].items()
    )


def test_a_second_ctrl_c_stops_at_once_but_not_one_that_a_launcher_passes_on():
    heard = PreemptionHandler(World(), preemption.ignore)
    with heard.listening():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        heard._received -= 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "teachers").write_text("in the way")
    assert train(tmp_path) == 2
    assert "the run folder cannot be written" in capsys.readouterr().err
    assert (tmp_path / "teachers").read_text() == "in the way"

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.load import load
from distillers.errors import InputError


class Evil:
    """A pickle that would write a file when it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def save_resnet8(folder, payload=None, classes=10, name="resnet8"):
    folder.mkdir(parents=True, exist_ok=True)
    net = models.create("resnet8", num_classes=classes)
    path = folder / f"{name}_best.pth"
    torch.save(payload(net.state_dict()) if payload else {"model": net.state_dict()}, path)
    return path, net


def test_another_number_of_classes_is_refused(tmp_path):
    path, _ = save_resnet8(tmp_path / "resnet8_vanilla", classes=100)
    with pytest.raises(InputError, match="100 classes, the data set has 10"):
        load(path, num_classes=10)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, protocol):
    trap = tmp_path / "ran"
    path = tmp_path / "evil.pth"
    torch.save({"model": Evil(trap)}, path, pickle_protocol=protocol)
    with pytest.raises(InputError, match=r"could run code|damaged"):
        checkpoint.read(path)
    path.write_bytes(pickle.dumps(Evil(trap), protocol=protocol))
    with pytest.raises(InputError, match=r"could run code|damaged"):
        checkpoint.read(path)
    assert not trap.exists()


def test_a_namespace_beside_the_weights_is_ignored(tmp_path):
    path, net = save_resnet8(
        tmp_path / "resnet8_vanilla",
        lambda s: {
            "opt": argparse.Namespace(lr=0.05, out=Path("x")),
            "best_acc": np.float64(71.2),
            "model": s,
        },
    )
    assert not hasattr(checkpoint.read(path)["opt"], "lr")
    assert torch.equal(load(path).net.fc.weight, net.fc.weight)


def test_every_truncation_is_refused(tmp_path):
    path, _ = save_resnet8(tmp_path)
    content = path.read_bytes()
    for size in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="damaged or not a checkpoint"):
            checkpoint.read(path)


def test_a_missing_file_says_what_there_is(tmp_path):
    save_resnet8(tmp_path / "a")
    with pytest.raises(InputError, match=r"its folder has resnet8_best\.pth"):
        checkpoint.read(tmp_path / "a" / "resnet20_best.pth")
    with pytest.raises(InputError, match=r"/b does not exist"):
        checkpoint.read(tmp_path / "b" / "c" / "resnet20_best.pth")


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 2}, {}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    path = tmp_path / "resnet8_vanilla.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"not a state dict|no state dict"):
        load(path)


def test_a_newer_format_is_refused(tmp_path):
    path, _ = save_resnet8(tmp_path, lambda s: {"model": s, "card": {"format": 99}})
    with pytest.raises(InputError, match="newer version"):
        load(path)


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    checkpoint.save(path, {"model": {"w": torch.ones(3)}})
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"model": {"w": torch.zeros(3)}})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_a_card_cannot_choose_a_module_to_import(tmp_path):
    card = {"format": 1, "model": "tests.nets:Small", "num_classes": 5}
    path, _ = save_resnet8(tmp_path, lambda s: {"model": s, "card": card})
    with pytest.raises(InputError, match="code outside of distillers"):
        load(path)

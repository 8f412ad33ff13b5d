import argparse
import os
import pickle

import pytest
import torch

from distillers import checkpoint, models
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


@pytest.mark.parametrize(
    "payload",
    [
        lambda s: {"model": s},
        lambda s: s,
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"epoch": 240, "model": s, "best_acc": torch.tensor([72.1]), "optimizer": {}},
    ],
)
def test_files_of_other_projects_load(tmp_path, payload):
    path, net = save_resnet8(tmp_path / "resnet8_vanilla", payload)
    loaded, card = checkpoint.load_network(path, num_classes=10)
    assert card == {}
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), net.eval()(x))
    assert not loaded.training


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("resnet32x4_vanilla", "resnet32x4"),
        ("resnet110_cifar100_lr_0.05_decay_0.0005_trial_0", "resnet110"),
        ("cifar100_vgg13_trial_0", "vgg13"),
        ("S_resnet8x4_T_resnet32x4_cifar100_kd_r_1.0", "resnet8x4"),
        ("S:ShuffleV2_T:resnet32x4_cifar100_kd_r:1.0", "ShuffleV2"),
        ("ShuffleV2_1_5_vanilla", "ShuffleV2_1_5"),
        ("MobileNetV2_1_0_vanilla", "MobileNetV2_1_0"),
        ("MobileNetV2_vanilla", "MobileNetV2"),
        ("wrn_40_2_vanilla", "wrn_40_2"),
        ("resnext50_32x4d_vanilla_imagenet_trial_0", "resnext50_32x4d"),
        ("my_own_folder", None),
    ],
)
def test_the_folder_tells_the_network(tmp_path, folder, name):
    assert checkpoint.name_from_folder(tmp_path / folder / "x.pth") == name


def test_an_architecture_that_is_not_told_is_asked_for(tmp_path):
    path, _ = save_resnet8(tmp_path / "mine")
    with pytest.raises(InputError, match="--model_t"):
        checkpoint.load_network(path)
    checkpoint.load_network(path, name="resnet8")
    with pytest.raises(InputError, match="does not fit"):
        checkpoint.load_network(path, name="resnet14")


def test_another_number_of_classes_is_refused(tmp_path):
    path, _ = save_resnet8(tmp_path / "resnet8_vanilla", classes=100)
    with pytest.raises(InputError, match="100 classes apart, the data set has 10"):
        checkpoint.load_network(path, num_classes=10)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, protocol):
    trap = tmp_path / "ran"
    path = tmp_path / "evil.pth"
    torch.save({"model": Evil(trap)}, path, pickle_protocol=protocol)
    with pytest.raises(InputError, match=r"could run code|damaged"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(Evil(trap), protocol=protocol))
    with pytest.raises(InputError, match=r"could run code|damaged"):
        checkpoint.load(path)
    assert not trap.exists()


def test_a_namespace_of_the_old_system_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "resnet8_last.pth"
    torch.save({"opt": argparse.Namespace(lr=0.05), "model": {}}, path)
    with pytest.raises(InputError, match="convert it once"):
        checkpoint.load(path)


def test_every_truncation_is_refused(tmp_path):
    path, _ = save_resnet8(tmp_path)
    content = path.read_bytes()
    for size in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="damaged or not a checkpoint"):
            checkpoint.load(path)


def test_a_missing_file_says_what_there_is(tmp_path):
    save_resnet8(tmp_path / "a")
    with pytest.raises(InputError, match=r"its folder has resnet8_best\.pth"):
        checkpoint.load(tmp_path / "a" / "resnet20_best.pth")
    with pytest.raises(InputError, match=r"/b does not exist"):
        checkpoint.load(tmp_path / "b" / "c" / "resnet20_best.pth")


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 2}, {}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    path = tmp_path / "resnet8_vanilla.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"not a state dict|no state dict"):
        checkpoint.weights(checkpoint.load(path), path)


def test_a_newer_format_is_refused(tmp_path):
    path, _ = save_resnet8(tmp_path, lambda s: {"model": s, "card": {"format": 99}})
    with pytest.raises(InputError, match="newer version"):
        checkpoint.load_network(path)


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
        checkpoint.load_network(path)

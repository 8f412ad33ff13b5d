"""One self-contained file of a deployed network, in each format, and what reads it again."""

import json

import pytest
import torch
from torch import nn

import distillers
from distillers import data, models
from distillers.checkpoints import export as exporting
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.card import complete_card
from distillers.checkpoints.load import Classifier
from distillers.cli import main as cli
from distillers.errors import InputError
from distillers.losses import SimKD
from distillers.models.registry import LARGE_IMAGES

FORMATS = ("safetensors", "torch_export", "onnx", "openvino")
SUFFIX = exporting.SUFFIXES
DIGITS = data.load("digits")
IMAGES = next(DIGITS.test_loader(torch.device("cpu")).epoch(1)).images[:16]


def randomised(net):
    """`net` with statistics as training leaves them, so that nothing is the identity."""
    rng = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
    return net.eval()


def card_of(name="resnet8", size=32):
    return {
        "format": 1,
        "model": name,
        "num_classes": 10,
        "image_size": size,
        "dataset": "digits",
        "mean": list(DIGITS.mean),
        "std": list(DIGITS.std),
    }


def run_folder(folder, net=None, card=None):
    """What a run leaves behind, as far as export asks for it."""
    net = randomised(net or models.create("resnet8", num_classes=10))
    folder.mkdir(parents=True)
    payload = {"model": net.state_dict(), "card": card or card_of(), "best_acc": 91.5}
    checkpoint.save(folder / "resnet8_best.pth", payload)
    return net


def simkd():
    teacher = models.create("vgg8", num_classes=10)
    loss = SimKD([16, 32, 64], 512, teacher.classifier)
    loss.teacher_size.fill_(4)
    student = models.create("resnet8", num_classes=10)
    return loss.deploy(student, student.taps)


def needs(form):
    if form == "openvino":
        pytest.importorskip("openvino")
    if form in ("onnx", "openvino"):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


def written(path):
    """What the file computes of IMAGES, and its card."""
    if path.suffix == ".onnx":
        from distillers.checkpoints.onnx import OnnxNetwork

        net = OnnxNetwork(path)
    else:
        net = distillers.load(path)
    return net(IMAGES), net.card


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("make", [None, simkd])
def test_a_run_is_exported_and_read_again(form, make, tmp_path, capsys):
    needs(form)
    net = make() if make else models.create("resnet8", num_classes=10)
    run_folder(tmp_path / "run", net, card_of() | {"deploy": getattr(net, "card", None)})
    assert cli.run("export", [str(tmp_path / "run"), "--format", form]) == 0
    out = capsys.readouterr().out
    assert "32 test images of digits" in out
    assert "max_abs_difference" in out
    path = tmp_path / "run" / f"resnet8_best{SUFFIX[form]}"
    with torch.no_grad():
        logits, card = written(path)
        assert torch.allclose(logits, net(IMAGES), atol=1e-5)
    assert card["class_names"] == list(DIGITS.class_names)
    assert (card["accuracy"], card["image_size"], card["dataset"]) == (91.5, 32, "digits")
    assert card["parameters"] == sum(p.numel() for p in net.parameters())
    if form == "torch_export":
        assert json.loads(path.with_suffix(".json").read_text()) == card
    assert not list((tmp_path / "run").glob("*.part*"))
    assert cli.run("export", [str(tmp_path / "run"), "--format", form]) == 2
    assert "add --overwrite" in capsys.readouterr().err


def test_a_wrong_file_is_not_kept(tmp_path, monkeypatch):
    net = Classifier(randomised(models.create("resnet8", num_classes=10)), card_of())
    card = complete_card(net, DIGITS)
    write = exporting.write_safetensors

    def spoil(net, card, path):
        other = models.create("resnet8", num_classes=10)
        write(other, card, path)

    monkeypatch.setattr(exporting, "write_safetensors", spoil)
    with pytest.raises(InputError, match="does not compute what resnet8 does"):
        exporting.export(net, card, tmp_path / "x.safetensors", "safetensors", IMAGES)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_is_told_how_to_install_it(tmp_path, monkeypatch, capsys):
    from distillers.checkpoints import onnx as onnx_file

    run_folder(tmp_path / "run")
    monkeypatch.setattr(onnx_file, "find_spec", lambda _: None)
    assert cli.run("export", [str(tmp_path / "run"), "--format", "onnx"]) == 2
    assert 'pip install -e ".[export]"' in capsys.readouterr().err


def test_images_of_the_digits_stand_in_for_a_set_that_is_not_here(tmp_path, capsys):
    card = card_of() | {"dataset": "cifar10", "mean": [0.5] * 3, "std": [0.2] * 3}
    run_folder(tmp_path / "run", card=card)
    flags = [str(tmp_path / "run"), "--data_dir", str(tmp_path / "none")]
    assert cli.run("export", flags) == 0
    out = capsys.readouterr().out
    assert "the network's own test images are not available" in out
    assert "32 test images of digits" in out


def test_another_projects_file_needs_its_data_set_named(tmp_path, capsys):
    path = tmp_path / "resnet8_vanilla" / "x.pth"
    path.parent.mkdir()
    torch.save({"model": models.create("resnet8", num_classes=10).state_dict()}, path)
    assert cli.run("export", [str(path)]) == 2
    assert "--dataset" in capsys.readouterr().err
    assert cli.run("export", [str(path), "--dataset", "digits"]) == 0
    assert distillers.load(path.with_suffix(".safetensors")).card["mean"] == list(DIGITS.mean)


def test_an_onnx_file_is_run_by_onnxruntime(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    card = card_of() | {"mean": [0.5] * 3, "std": [0.2] * 3}
    net = Classifier(randomised(models.create("resnet8", num_classes=10)), card)
    exporting.export(net, complete_card(net), tmp_path / "x.onnx", "onnx", IMAGES)
    loaded = distillers.load(tmp_path / "x.onnx")
    torch.testing.assert_close(loaded(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-4)
    assert loaded.card["model"] == "resnet8"


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_program_is_no_start_for_training(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is a program, not weights"):
        distillers.load(path, programs=False)


def test_a_program_holds_its_example_images_only(tmp_path):
    card = card_of() | {"mean": [0.5] * 3, "std": [0.2] * 3}
    net = Classifier(randomised(models.create("resnet8", num_classes=10)), card)
    many = torch.randn(2000, 3, 32, 32)
    exporting.export(net, complete_card(net), tmp_path / "x.pt2", "torch_export", many[:2])
    assert (tmp_path / "x.pt2").stat().st_size < 2e6


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_a_damaged_file_is_told(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"no such thing")
    with pytest.raises(InputError, match="damaged"):
        distillers.load(path)


def test_preprocessing_is_what_the_loader_does(tmp_path):
    run_folder(tmp_path / "run")
    net = distillers.load(tmp_path / "run")
    assert not net.training
    assert net.taps.maps == tuple(f"net.{path}" for path in net.net.taps.maps)
    assert torch.equal(net.preprocess(DIGITS.test_images[:16]), IMAGES)
    assert net.preprocess(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (1, 3, 32, 32)
    assert net.preprocess(torch.zeros(2, 3, 8, 20, dtype=torch.uint8)).shape == (2, 3, 32, 32)
    with pytest.raises(InputError, match=r"must be \(n, 1 or 3, h, w\)"):
        net.preprocess(torch.zeros(3, 32, 32))
    with pytest.raises(InputError, match="has no mean"):
        Classifier(nn.Identity(), {"model": "x"}).preprocess(DIGITS.test_images[:1])


FAMILIES = ["resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50"]
FAMILIES += ["ResNet18", "resnext50_32x4d", "MobileNetV2_Imagenet", "ShuffleV2_Imagenet"]
FAMILIES += ["timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224", "torchvision:squeezenet1_1"]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_exported(form, name, tmp_path):
    needs(form)
    size = 64 if ":" in name or (name in LARGE_IMAGES and name != "ResNet50") else 32
    net = randomised(models.create(name, num_classes=10, image_size=size))
    ready = Classifier(net, card_of(name, size))
    images = torch.nn.functional.interpolate(IMAGES[:4], size)
    path = tmp_path / f"x{SUFFIX[form]}"
    card = complete_card(ready, DIGITS)
    assert exporting.export(ready, card, path, form, images) < 1e-2

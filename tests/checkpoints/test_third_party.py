"""Files of other projects, in every layout that they write; the tests write them."""

import logging

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.architecture import name_from_folder
from distillers.checkpoints.load import load
from distillers.checkpoints.network import model_name
from distillers.checkpoints.shapes import names_by_shapes
from distillers.errors import InputError
from distillers.losses import SimKD
from distillers.models import registry

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def write(path, name="resnet8", layout=None, classes=10):
    """A file at `path` with a network's weights, and the network."""
    net = models.create(name, num_classes=classes)
    state = net.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(layout(state) if layout else {"model": state}, path)
    return net.eval()


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def distiller(state):
    """What mdistiller keeps of a distiller under DataParallel."""
    teacher = models.create("resnet20", num_classes=10).state_dict()
    both = {**prefixed(state, "module.student."), **prefixed(teacher, "module.teacher.")}
    both["module.conv_reg.weight"] = torch.zeros(4, 4, 1, 1)
    return {"epoch": 240, "model": both, "optimizer": {"state": {}}, "best_acc": 71.2}


LAYOUTS = {
    "plain": lambda s: s,
    "documented teacher": lambda s: {"epoch": 240, "best_acc": 72.1, "model": s},
    "RepDistiller": lambda s: {
        "epoch": 240,
        "model": s,
        "accuracy": torch.tensor([72.1]),
        "optimizer": {"param_groups": []},
    },
    "DataParallel": lambda s: {"state_dict": prefixed(s, "module.")},
    "compiled": lambda s: {"model": prefixed(s, "module._orig_mod.")},
    "SemCKD": lambda s: {"epoch": 1, "model": s, "best_acc": 1.0, "attention": {"w": s["fc.bias"]}},
    "mdistiller": distiller,
    "mdistiller's student": lambda s: {"model": prefixed(s, "student.")},
    "before 2018": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_other_projects_load(tmp_path, layout):
    path = tmp_path / "resnet8_vanilla" / "best.pth"
    net = write(path, layout=LAYOUTS[layout])
    loaded = load(path, num_classes=10)
    loaded, card = loaded.net, loaded.card
    assert card == {"model": "resnet8", "num_classes": 10}
    assert torch.equal(loaded(IMAGES), net(IMAGES))
    assert not loaded.training


def test_what_is_left_out_is_said(tmp_path, caplog):
    path = tmp_path / "x" / "best.pth"
    for layout, words in (("mdistiller", "conv_reg, teacher left out"), ("SemCKD", "attention")):
        caplog.clear()
        write(path, layout=LAYOUTS[layout])
        load(path)
        assert words in caplog.text


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("resnet32x4_vanilla", "resnet32x4"),
        ("resnet110_cifar100_lr_0.05_decay_0.0005_trial_0", "resnet110"),
        ("cifar100_vgg13_trial_0", "vgg13"),
        ("S_resnet8x4_T_resnet32x4_cifar100_kd_r_1.0", "resnet8x4"),
        ("S:ShuffleV2_T:resnet32x4_cifar100_kd_r:1.0", "ShuffleV2"),
        ("S~ShuffleV2_1_5_T~resnet32x4_cifar100_kd", "ShuffleV2_1_5"),
        ("RRD_cifar100_S_wrn_40_1_T_wrn_40_2_r_1_a_0_b_1_trial_1", "wrn_40_1"),
        ("ShuffleV2_1_5_vanilla", "ShuffleV2_1_5"),
        ("MobileNetV2_1_0_vanilla", "MobileNetV2_1_0"),
        ("MobileNetV2_vanilla", "MobileNetV2"),
        ("MobileNetV2_Imagenet_vanilla_imagenet_trial_0", "MobileNetV2_Imagenet"),
        ("wrn_40_2_vanilla", "wrn_40_2"),
        ("resnext50_32x4d_vanilla_imagenet_trial_0", "resnext50_32x4d"),
        ("ResNet50_vanilla", "ResNet50"),
        ("my_own_folder", None),
    ],
)
def test_the_folder_tells_the_network(tmp_path, folder, name):
    assert name_from_folder(tmp_path / folder / "x.pth") == name
    assert name_from_folder(f"D:\\save\\models\\{folder}\\x.pth") == name


@pytest.mark.parametrize(
    "name",
    ["resnet38x2", "wrn_40_2", "MobileNetV2_1_0", "ShuffleV2_1_5"],
)
def test_the_shapes_tell_the_network(name):
    net = models.create(name, num_classes=20)
    assert names_by_shapes(net.state_dict()) == [(name, 32, 20)]


@pytest.mark.slow
def test_the_shapes_of_every_network_are_its_own():
    for size, names in ((32, registry.SMALL_IMAGES), (224, registry.LARGE_IMAGES)):
        for name in names:
            with torch.device("meta"):
                net = models.create(name, num_classes=20, image_size=size)
            assert names_by_shapes(net.state_dict()) == [(name, size, 20)]


def test_a_bare_file_name_is_enough(tmp_path, monkeypatch):
    net = write(tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    loaded = load("mine.pth").net
    assert torch.equal(loaded(IMAGES), net(IMAGES))


def test_a_folder_that_names_another_network_is_told(tmp_path):
    path = tmp_path / "resnet20_vanilla" / "x.pth"
    net = write(path)
    with pytest.raises(InputError, match=r"resnet20_vanilla.* are those of resnet8"):
        load(path)
    with pytest.raises(InputError, match=r"does not fit resnet14.* are those of resnet8"):
        load(path, model="resnet14")
    loaded = load(path, model="resnet8")
    loaded, card = loaded.net, loaded.card
    assert model_name(path, card) == "resnet8"
    assert torch.equal(loaded(IMAGES), net(IMAGES))


def test_an_unknown_architecture_is_asked_for(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"w": torch.zeros(10, 4)}}, path)
    with pytest.raises(InputError, match="--model_t"):
        load(path)
    with pytest.raises(InputError, match="does not fit ResNet"):
        load(path, model="resnet8")


def test_torchvisions_files_are_the_networks_of_the_papers(tmp_path):
    path = tmp_path / "resnet18-f37072fd.pth"
    net = models.create("torchvision:resnet18", num_classes=1000)
    torch.save(net.state_dict(), path)
    loaded = load(path)
    loaded, card = loaded.net, loaded.card
    assert card["model"] == "ResNet18"
    assert torch.equal(loaded(IMAGES), net.eval()(IMAGES))
    assert card["mean"] == [0.485, 0.456, 0.406]  # as published weights want it
    card = load(path, model="torchvision:resnet18").card
    assert card["model"] == "torchvision:resnet18"
    torch.save(models.create("torchvision:resnet18", num_classes=10).state_dict(), path)
    card = load(path, model="torchvision:resnet18").card
    assert "mean" not in card  # somebody's own: the data set's numbers are as good as any


def test_a_safetensors_file_of_timm_is_named_by_the_user(tmp_path):
    path = tmp_path / "model.safetensors"
    net = models.create("timm:mobilenetv3_small_050", num_classes=10)
    save_file(net.state_dict(), path)
    loaded = load(path, model="timm:mobilenetv3_small_050")
    loaded, card = loaded.net, loaded.card
    assert card["num_classes"] == 10
    assert torch.equal(loaded(IMAGES), net.eval()(IMAGES))
    with pytest.raises(InputError, match="--model_t"):
        load(path)


def test_weights_with_other_names_are_taken_in_order_and_this_is_said(tmp_path, caplog):
    path = tmp_path / "x.pth"
    net = write(path, layout=lambda s: {f"{n}.w": v for n, v in enumerate(s.values())})
    state = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in state.items() if v.ndim}, path)
    loaded = load(path, model="resnet8").net
    assert "taken in their order" in caplog.text
    assert torch.equal(loaded(IMAGES), net(IMAGES))


def test_weights_with_other_names_are_of_images_of_a_size(tmp_path):
    net = models.create("timm:test_vit", num_classes=10, image_size=128)
    state = {f"{n}.w": value for n, value in enumerate(net.state_dict().values())}
    torch.save(state, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", model="timm:test_vit", image_size=128)
    loaded, card = loaded.net, loaded.card
    images = torch.randn(2, 3, 128, 128)
    assert torch.equal(loaded(images), net.eval()(images))
    assert "image_size" not in card
    card = load(tmp_path / "x.pth", model="timm:test_vit", image_size=96).card
    assert card["image_size"] == 128  # as its table of positions has it


def test_torchvisions_further_classifiers_are_left_out(tmp_path):
    net = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    assert net.fc.out_features == 1000
    torch.save(net.state_dict(), tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", model="torchvision:googlenet")
    loaded, card = loaded.net, loaded.card
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), net.eval()(images))
    assert card["mean"] == [0.5] * 3


def simkd_file(path):
    """A file of SimKD's authors' code, its teacher, and the network that they scored."""
    teacher = models.create("vgg8", num_classes=10).eval()
    student = models.create("resnet8", num_classes=10)
    loss = SimKD([16, 32, 64], 512, teacher.classifier)
    loss.train()(
        [torch.randn(4, 64, 8, 8)] * 3, torch.randn(4, 512, 4, 4)
    )  # the sizes of a resnet8's and a vgg8's last maps
    scored = loss.deploy(student, student.taps).eval()
    proj = prefixed(loss.projector.state_dict(), "module.transfer.")
    path.parent.mkdir(parents=True)
    torch.save({"epoch": 9, "best_acc": 76.1, "model": student.state_dict(), "proj": proj}, path)
    return scored, teacher


def test_a_simkd_student_that_shrinks_nothing_takes_larger_images(tmp_path):
    """As its training would deploy it, whatever the size of the images."""
    path = tmp_path / "S:resnet8_T:resnet20_cifar100_simkd_r:0.0" / "resnet8_best.pth"
    teacher = models.create("resnet20", num_classes=10).eval()
    student = models.create("resnet8", num_classes=10)
    loss = SimKD([16, 32, 64], 64, teacher.fc)
    loss.train()([torch.randn(4, 64, 8, 8)] * 3, torch.randn(4, 64, 8, 8))
    scored = loss.deploy(student, student.taps).eval()
    proj = prefixed(loss.projector.state_dict(), "module.transfer.")
    path.parent.mkdir(parents=True)
    torch.save({"model": student.state_dict(), "proj": proj}, path)
    loaded = load(path, teacher=teacher).net
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), scored(images))


def test_a_simkd_student_is_built_with_its_teacher(tmp_path, caplog):
    path = tmp_path / "S:resnet8_T:vgg8_cifar100_simkd_r:0.0" / "resnet8_best.pth"
    scored, teacher = simkd_file(path)
    loaded = load(path, teacher=teacher)
    loaded, card = loaded.net, loaded.card
    assert torch.equal(loaded(IMAGES), scored(IMAGES))
    again = tmp_path / "ours.pth"
    checkpoint.save(again, {"model": loaded.state_dict(), "card": card})
    assert torch.equal(load(again)(IMAGES), scored(IMAGES))
    with pytest.raises(InputError, match="is this the teacher"):
        load(path, teacher=models.create("resnet20", num_classes=10))
    caplog.clear()
    loaded = load(path)
    plain, card = loaded.net, loaded.card
    assert "the accuracy in the file is not this network's" in caplog.text
    assert not hasattr(plain, "projector")
    assert "deploy" not in card
    assert caplog.records[0].levelno == logging.WARNING

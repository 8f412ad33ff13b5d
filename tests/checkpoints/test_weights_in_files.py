"""Which weights of a file are taken, with how many classes and for images of which size."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from distillers import models
from distillers.checkpoints.initial import build_initial
from distillers.checkpoints.load import load
from distillers.checkpoints.shapes import find_fit
from distillers.cli import main as cli
from distillers.errors import InputError

NAME = "timm:test_resnet"


def state_of(seed, classes=5):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=classes).state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def averaged():
    net = timm.create_model("test_resnet", num_classes=5)
    net.load_state_dict(state_of(1))
    return AveragedModel(net).state_dict()


RAW, EMA, W = state_of(0), state_of(1), torch.ones(3, 4)
# each: the content of a file, and words that the log says of the choice
FILES = {
    "timm": ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema, state_dict left out"),
    "timm of old": ({"state_dict_ema": prefixed(EMA, "module."), "state_dict": RAW}, "ema"),
    "torchvision": (
        {"model": RAW, "model_ema": {"n_averaged": torch.tensor(5), **prefixed(EMA, "module.")}},
        "model_ema, model left out",
    ),
    "mmengine": (
        {
            "message_hub": {},
            "ema_state_dict": {"steps": torch.tensor(5), **prefixed(RAW, "module.")},
            "state_dict": EMA,
        },
        "state_dict, ema_state_dict left out",
    ),
    "nested": ({"ema": {"module": EMA, "updates": 3}, "model": RAW}, "ema.module, model left out"),
    "callback of Lightning": (
        {"state_dict": prefixed(RAW, "model."), "callbacks": {"EMA": {"weights": EMA}}},
        "callbacks.EMA.weights, state_dict left out",
    ),
    "both in one state dict": (
        {"state_dict": {**prefixed(RAW, "net."), **prefixed(EMA, "net_ema.module.")}},
        "net_ema, net left out",
    ),
    "AveragedModel": (averaged(), ""),
    "Lightning": ({"state_dict": {**prefixed(EMA, "model."), "loss.w": torch.ones(3)}}, "loss"),
    "shadow": ({"model": RAW, "shadow": EMA, "decay": 0.9}, "shadow, model left out"),
    "averaged": ({"model_state": RAW, "averaged": EMA}, "averaged, model_state left out"),
    "swa": ({"net": RAW, "swa_model": prefixed(EMA, "module.")}, "swa_model, net left out"),
    "only average": ({"model_ema": EMA, "model": None}, "model_ema"),
    "another name": ({"weights": EMA, "epoch": 3}, "weights"),
    "DINO": (
        {
            "student": prefixed(RAW, "module.backbone.") | {"module.head.last_layer.weight_v": W},
            "teacher": prefixed(EMA, "backbone.") | {"head.last_layer.weight_v": W},
        },
        "teacher.backbone, head, student left out",
    ),
    "DINOv2": (
        {
            "model": {
                **prefixed(RAW, "student.backbone."),
                "student.dino_head.last_layer.weight_v": W,
                **prefixed(EMA, "teacher.backbone."),
                "teacher.dino_head.last_layer.weight_v": W,
            }
        },
        "teacher.backbone, dino_head, model.student left out",
    ),
    "lightly": (
        {"state_dict": prefixed(RAW, "student_backbone.") | prefixed(EMA, "teacher_backbone.")},
        "teacher_backbone, student_backbone left out",
    ),
    "I-JEPA": (
        {"encoder": RAW, "target_encoder": prefixed(EMA, "module.")},
        "target_encoder, encoder left out",
    ),
    "a teacher of the same shapes": (
        {"teacher": RAW, "student": EMA},
        "student, teacher left out",
    ),
    "bare": (EMA, "not verified"),
}


@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_averaged_weights_are_taken_and_the_choice_is_logged(layout, suffix, tmp_path, caplog):
    payload, words = FILES[layout]
    torch.save(payload, tmp_path / f"x{suffix}")
    net = load(tmp_path / f"x{suffix}", model=NAME).net
    assert all(torch.equal(value, EMA[key]) for key, value in net.state_dict().items())
    assert words in caplog.text
    choice, normalization = caplog.messages
    assert "took its weights" in choice
    assert "with mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5, as for the published" in normalization
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_averaged_weights_of_another_network_are_not_taken(tmp_path):
    payload = {"model": RAW, "model_ema": {"w": torch.ones(3, 4)}}
    torch.save(payload, tmp_path / "x.pth")
    net = load(tmp_path / "x.pth", model=NAME).net
    assert all(torch.equal(value, RAW[key]) for key, value in net.state_dict().items())


def test_weights_larger_than_their_storage_are_refused(tmp_path):
    state = dict(RAW)
    state["fc.weight"] = torch.zeros(1).expand(10**9, RAW["fc.weight"].shape[1])
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError, match="no state dict"):
        load(tmp_path / "x.pth", model=NAME)


# Networks whose last matrix, in one order or another, is not the classifier.
MANY = ("test_convnext", "test_mambaout", "test_vit", "test_byobnet", "test_nfnet", "levit_128s")
MANY += ("edgenext_xx_small", "mobilevit_xxs", "pvt_v2_b0", "deit_tiny_distilled_patch16_224")


@pytest.mark.parametrize("name", MANY)
def test_the_number_of_classes_is_that_of_the_classifier_in_any_order(name, tmp_path):
    state = timm.create_model(name, num_classes=9).state_dict()
    save_file({k: v.clone().contiguous() for k, v in state.items()}, tmp_path / "x.safetensors")
    torch.save(dict(reversed(state.items())), tmp_path / "x.pth")
    for file in ("x.safetensors", "x.pth"):
        assert load(tmp_path / file, model=f"timm:{name}").card["num_classes"] == 9


class FixedClasses(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.a_hidden = nn.Linear(12, 6)
        self.b_head = nn.Linear(6, 4)  # whatever is asked for


def test_a_network_that_ignores_the_number_of_classes_is_read(tmp_path):
    torch.save(FixedClasses().state_dict(), tmp_path / "x.pth")
    name = f"{__name__}:FixedClasses"
    assert load(tmp_path / "x.pth", model=name).card["num_classes"] == 4


@pytest.mark.parametrize("name", [NAME, "torchvision:mobilenet_v3_small", "resnet8"])
def test_a_network_without_its_classifier_is_read(name, tmp_path, caplog):
    state = models.create(name, num_classes=0).state_dict()
    torch.save({"model": prefixed(state, "backbone.")}, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", model=name)
    assert loaded.card["num_classes"] == 0
    assert loaded.net(torch.zeros(2, 3, 32, 32)).ndim == 2
    assert "under model.backbone" in caplog.text
    net = build_initial(name, str(tmp_path / "x.pth"), num_classes=3, image_size=32).net
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_names_of_other_projects_are_those_that_timm_knows(tmp_path, caplog):
    own = timm.create_model("test_vit", num_classes=0).state_dict()
    theirs = {**own, "mask_token": torch.zeros(1, 64)}  # as in DINOv2's files
    torch.save({"teacher": prefixed(theirs, "backbone.")}, tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", model="timm:test_vit")
    assert all(torch.equal(value, own[key]) for key, value in loaded.net.state_dict().items())
    assert loaded.card["image_size"] == 160
    assert "renamed as timm does" in caplog.text


def test_alphabetical_weights_of_other_names_are_not_taken_in_order(tmp_path):
    state = models.create("resnet8", num_classes=10).state_dict()
    renamed = {f"{n:03}.{k.rpartition('.')[2]}": v for n, (k, v) in enumerate(state.items())}
    renamed = {k: v for k, v in renamed.items() if v.ndim}
    torch.save(renamed, tmp_path / "x.pth")
    assert load(tmp_path / "x.pth", model="resnet8").card["num_classes"] == 10
    save_file(renamed, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        load(tmp_path / "x.safetensors", model="resnet8")
    keys = list(renamed)
    first, second = keys[1], keys[2]  # scale and shift of a normalization, of one shape
    swapped = {{first: second, second: first}.get(k, k): v for k, v in renamed.items()}
    torch.save(swapped, tmp_path / "x.pth")
    with pytest.raises(InputError, match="does not fit"):
        load(tmp_path / "x.pth", model="resnet8")


SIZES = [("test_vit", 64), ("test_vit", 176), ("vit_tiny_patch16_224", 48), ("mixer_s32_224", 96)]
SIZES += [
    ("deit_tiny_distilled_patch16_224", 80),
    ("beit_base_patch16_224", 64),
    ("pit_ti_224", 96),
]
SIZES += [("swin_tiny_patch4_window7_224", 64), ("cait_xxs24_224", 64), ("convit_tiny", 112)]


@pytest.mark.parametrize(("name", "size"), SIZES)
@pytest.mark.parametrize("asked", [32, 224])
def test_the_table_of_positions_tells_the_size(name, size, asked):
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=3, img_size=size).state_dict()
    assert find_fit(f"timm:{name}", state, asked) == (f"timm:{name}", size, 3)


@pytest.mark.parametrize("size", [64, 96])
def test_a_transformer_of_any_size_takes_only_its_size(size, tmp_path):
    net = models.create("timm:test_vit", num_classes=3, image_size=size)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    for known in (None, 32, 48):
        card = load(tmp_path / "x.pth", model="timm:test_vit", image_size=known).card
        assert card["image_size"] == size
    loaded = load(tmp_path / "x.pth", model="timm:test_vit")
    images = torch.randn(2, 3, size, size)
    assert torch.equal(loaded(images), net.eval()(images))


def test_a_network_of_any_size_has_none_in_its_card(tmp_path):
    torch.save(RAW, tmp_path / "x.pth")
    for known in (None, 32, 100):
        assert "image_size" not in load(tmp_path / "x.pth", model=NAME, image_size=known).card


def test_a_transformer_of_another_size_is_scored_exported_and_teaches(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    net = models.create("timm:test_vit", num_classes=10, image_size=64)
    torch.save({"state_dict": net.state_dict()}, "vit.pth")
    flags = ["--dataset", "digits", "--model", "timm:test_vit"]
    assert cli.run("evaluate", ["vit.pth", *flags, "--gpu_id", "cpu"]) == 0
    assert cli.run("export", ["vit.pth", *flags]) == 0
    assert load("vit.safetensors").card["image_size"] == 64
    student = ["--path_t", "vit.pth", "--model_t", "timm:test_vit", "--model_s", "tests.nets:tiny"]
    student += ["--dataset", "digits", "--distill", "kd", "-c", "0.1", "-d", "0.9", "-b", "0"]
    student += ["--epochs", "1", "--batch_size", "256", "--gpu_id", "cpu", "--trial", "0"]
    assert cli.run("student", student) == 0

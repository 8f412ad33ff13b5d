"""Networks by name, and what is said when there is none."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError, URLError

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

from distillers import models
from distillers.errors import InputError
from distillers.models import pretrained as published
from distillers.models.resnet50_cifar import ResNet50
from distillers.models.resnet_imagenet import ResNetImageNet

OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, image_size=0, depth=3):
        super().__init__()
        self.fc = nn.Linear(image_size, num_classes)


def wants_more(num_classes, depth, /, *args, **options): ...


def fixed(): ...


def no_module(num_classes):
    return [num_classes]


def adaptive(num_classes, pretrained):
    return nn.Linear(1 + pretrained, num_classes)
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """The name of a module that a user wrote."""
    (tmp_path / "own_nets_of_a_user.py").write_text(OWN)
    (tmp_path / "half_installed.py").write_text("import surely_not_installed_here")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_nets_of_a_user"


@pytest.fixture
def offline(tmp_path, monkeypatch) -> list[str]:
    """No network and empty caches; the addresses that were asked for."""
    asked = []

    def refuse(request, timeout):
        assert timeout <= 10
        asked.append(request.full_url)
        raise URLError("no route to host")

    monkeypatch.setattr(published, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    return asked


def test_names_come_without_torch():
    code = (
        "import sys; from distillers import models; print(len(models.names()));"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(models.names())


def test_names_are_unique_and_documented_ones_are_among_them():
    names = models.names()
    assert len(names) == len(set(names))
    for name in ("resnet8x4", "resnet110x4", "wrn_40_4", "vgg19", "ShuffleV2_1_5", "wrn_50_2"):
        assert name in names


def test_resnet50_goes_by_the_image_size():
    with torch.device("meta"):
        assert isinstance(models.create("ResNet50"), ResNet50)
        assert isinstance(models.create("ResNet50", image_size=64), ResNet50)
        assert isinstance(models.create("ResNet50", image_size=65), ResNetImageNet)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "no network 'resnet21', did you mean 'resnet"),
        ("resnet50", "did you mean 'ResNet50' or 'torchvision:resnet50' or 'timm:resnet50'?"),
        ("vit_tiny_patch16_224", "did you mean 'timm:vit_tiny_patch16_224'?"),
        ("shufflenet_v2_x0_5", "did you mean 'torchvision:shufflenet_v2_x0_5'?"),
        ("timm:resnet51", "no timm network 'resnet51', did you mean 'resnet5"),
        ("timm:resnet50.a9_in1k", "did you mean 'resnet50."),
        ("timm:###", "no timm network '###'"),
        ("torchvision:resnet51", "no torchvision network 'resnet51', did you mean 'resnet50'"),
        ("no_such_module:Net", "no module 'no_such_module' for the network"),
        ("torch.no_such_module:Net", "no module 'torch.no_such_module' for the network"),
        ("torch.nn:Linea", "no class or function in torch.nn called 'Linea', did you mean"),
        ("torch.nn:", "write timm:NAME, torchvision:NAME or package.module:callable"),
        ("os:abort", "os:abort must take num_classes, .* it takes nothing"),
        ("torch.nn:Linear", "it takes in_features, out_features"),
    ],
)
def test_a_name_that_does_not_exist_is_answered(name, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        models.create(name)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm:test_resnet", 32),
        ("timm:test_vit", 32),
        ("timm:test_vit.r160_in1k", 48),
        ("torchvision:shufflenet_v2_x0_5", 64),
        ("torchvision:vit_b_16", 32),
        ("torchvision:googlenet", 64),
        ("torchvision:squeezenet1_1", 64),
    ],
)
def test_networks_of_timm_and_torchvision(name, size):
    with torch.device("meta"):
        net = models.create(name, 7, size)
    assert net.train()(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 7)


def test_networks_of_the_user(own):
    net = models.create(f"{own}:Net", 6, 24)
    assert (net.fc.in_features, net.fc.out_features) == (24, 6)
    assert models.create(f"{own}:adaptive", 6, pretrained=True).in_features == 2
    with pytest.raises(
        InputError, match="defaults for all other parameters; it takes num_classes, depth"
    ):
        models.create(f"{own}:wants_more")
    with pytest.raises(InputError, match="must take num_classes"):
        models.create(f"{own}:fixed")
    with pytest.raises(InputError, match=r"returns a list, not a torch\.nn\.Module"):
        models.create(f"{own}:no_module")
    with pytest.raises(InputError, match="takes no pretrained"):
        models.create(f"{own}:Net", pretrained=True)


def test_an_import_that_fails_inside_the_users_module_is_shown_as_it_is(own):
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed_here"):
        models.create("half_installed:Net")


@pytest.mark.parametrize("name", ["resnet20", "ResNet50", "ResNet18x2"])
def test_networks_without_published_weights_say_which_have_some(name):
    with pytest.raises(InputError, match=f"{name} for 32 x 32 .* these have: ResNet18, ResNet34"):
        models.create(name, pretrained=True)


def test_a_timm_network_without_published_weights():
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(InputError, match=f"timm publishes no weights for {name}"):
        models.create(f"timm:{name}", pretrained=True)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("ResNet18", "download.pytorch.org"),
        ("torchvision:shufflenet_v2_x0_5", "download.pytorch.org"),
        ("timm:test_vit", "huggingface.co"),
    ],
)
def test_without_a_network_weights_fail_at_once(name, host, offline):
    with pytest.raises(InputError, match=r"no weights for .* is not in .* does not answer"):
        models.create(name, 10, 224, pretrained=True)
    assert len(offline) == 1
    assert host in offline[0]


def test_timms_weights_that_are_on_no_hub_are_looked_for_where_torch_keeps_them(offline, tmp_path):
    config = SimpleNamespace(hf_hub_id=None, url="https://example.org/weights.pth")
    with pytest.raises(InputError, match=r"weights\.pth is not in .* example\.org does not answer"):
        published.timm_overrides("a_net", config)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "weights.pth").touch()
    assert published.timm_overrides("a_net", config) == {}
    assert len(offline) == 1


def test_hub_offline_mode_is_obeyed(offline, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        models.create("timm:test_vit", pretrained=True)
    assert offline == []


def test_a_host_that_answers_with_an_error_is_there(monkeypatch, tmp_path):
    def answer(request, timeout):
        raise HTTPError(request.full_url, 403, "forbidden", {}, None)

    monkeypatch.setattr(published, "urlopen", answer)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published.check_available("a network", "https://example.org/weights.pth")


@pytest.mark.parametrize("classes", [1000, 5])
@pytest.mark.parametrize(
    ("name", "there", "head"),
    [
        ("MobileNetV2_Imagenet", "mobilenet_v2", "classifier.1"),
        ("torchvision:squeezenet1_1", "squeezenet1_1", "classifier.1"),
        ("torchvision:googlenet", "googlenet", "fc"),
    ],
)
def test_torchvisions_weights_from_the_cache(name, there, head, classes, tmp_path, offline):
    key = "DEFAULT" if ":" in name else "IMAGENET1K_V1"
    url = torchvision_models.get_model_weights(there)[key].url
    options = {"init_weights": False} if there == "googlenet" else {}  # which is slow
    source = torchvision_models.get_model(there, weights=None, **options)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(source.state_dict(), folder / Path(url).name)
    net = models.create(name, classes, 224, pretrained=True)
    if there == "googlenet":  # only one of its classifiers is of use, and it sees images as given
        source.aux1 = source.aux2 = None
        images = torch.randn(2, 3, 64, 64)
        again = models.create(name, classes, 64)
        again.load_state_dict(net.state_dict())
        assert torch.equal(again.eval()(images), net.eval()(images))
    _assert_same_but_for_the_head(net, source, head, classes)
    assert offline == []


def test_published_weights_tell_how_images_are_normalized():
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    tensorflow = {"mean": [0.5] * 3, "std": [0.5] * 3}
    told = {
        ("timm:resnet18", 224): imagenet,
        ("torchvision:resnet18", 224): imagenet,
        ("torchvision:googlenet", 224): tensorflow,
        ("ResNet18", 32): imagenet,
        ("ResNet50", 224): imagenet,
        ("resnet20", 32): {},
    }
    for (name, size), expected in told.items():
        with torch.device("meta"):
            net = models.create(name, 10, size)
        assert published.statistics(net, name) == expected, name


@pytest.mark.parametrize("classes", [1000, 5])
def test_timms_weights_from_the_cache(classes, tmp_path, offline, monkeypatch):
    source = timm.create_model("test_vit", img_size=160)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    cached = str(tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    net = models.create("timm:test_vit", classes, 160, pretrained=True)
    _assert_same_but_for_the_head(net, source, "head", classes)
    assert offline == []


def test_torchvisions_vision_transformers_have_weights_for_one_size():
    with pytest.raises(InputError, match="are for 224 x 224 images, not 32 x 32"):
        models.create("torchvision:vit_b_16", pretrained=True)


def _assert_same_but_for_the_head(
    net: nn.Module, source: nn.Module, head: str, classes: int
) -> None:
    state, expected = net.state_dict(), source.state_dict()
    assert state.keys() == expected.keys()
    for key, value in state.items():
        if key.startswith(f"{head}.") and classes != 1000:
            assert value.shape == (classes, *expected[key].shape[1:])
        else:
            assert torch.equal(value, expected[key]), key

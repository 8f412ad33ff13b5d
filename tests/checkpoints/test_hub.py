"""The hub's calls are replaced: what would be uploaded is kept, and downloaded again."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

import distillers
from distillers import models
from distillers.checkpoints import hub
from distillers.checkpoints.export import export
from distillers.checkpoints.load import Classifier
from distillers.errors import InputError
from distillers.models import pretrained

huggingface_hub = pytest.importorskip("huggingface_hub")
CARD = {
    "model": "resnet8",
    "num_classes": 10,
    "image_size": 32,
    "dataset": "cifar10",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "accuracy": 88.5,
}


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A hub that is a folder."""
    folder = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, private, exist_ok):
            (folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://hub.test/{repo_id}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, folder / repo_id, dirs_exist_ok=True)

    def download(repo_id, name, revision=None, token=None):
        return str(folder / repo_id / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "check_hub", lambda *_: None)
    return folder


def test_a_network_goes_to_the_hub_and_comes_back(remote):
    net = Classifier(models.create("resnet8", num_classes=10), CARD)
    url = distillers.push_to_hub(net, "me/resnet8")
    assert url == "https://hub.test/me/resnet8"
    assert {p.name for p in (remote / "me/resnet8").iterdir()} == {"README.md", "model.safetensors"}
    back = distillers.from_pretrained("me/resnet8")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(back(images), net(images))
    assert back.card["accuracy"] == 88.5
    assert not back.training


def test_a_program_is_not_pushed(remote, tmp_path):
    net = Classifier(models.create("resnet8", num_classes=10), CARD)
    export(net, CARD, tmp_path / "x.pt2", "torch_export", torch.randn(2, 3, 32, 32))
    with pytest.raises(InputError, match="without weights to upload"):
        distillers.push_to_hub(str(tmp_path / "x.pt2"), "me/program")
    assert not remote.exists()


def test_the_model_card_says_what_it_is(remote):
    distillers.push_to_hub(Classifier(models.create("resnet8", num_classes=10), CARD), "me/resnet8")
    text = (remote / "me/resnet8/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "distillers"
    for words in ("| test accuracy (%) | 88.5 |", "from_pretrained", "| network | resnet8 |"):
        assert words in text


@pytest.fixture
def offline(monkeypatch):
    def nobody(request, timeout):
        raise OSError("no route to host")

    monkeypatch.setattr(pretrained, "urlopen", nobody)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_without_a_network_it_fails_at_once(offline, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not answer"):
        distillers.from_pretrained("me/resnet8")
    with pytest.raises(InputError, match="does not answer"):
        distillers.push_to_hub(
            Classifier(models.create("resnet8", num_classes=10), CARD), "me/resnet8"
        )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        distillers.from_pretrained("me/resnet8")


def test_without_a_network_the_cache_is_used(offline, tmp_path, monkeypatch):
    net = models.create("resnet8", num_classes=10)
    hub.write_safetensors(net, CARD, Path(tmp_path / "model.safetensors"))

    def cached(repo_id, name, revision=None):
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert distillers.from_pretrained("me/resnet8").card == CARD


def test_a_refusal_of_the_hub_is_told_in_a_line(remote, monkeypatch):
    from huggingface_hub.errors import HFValidationError

    def refuse(*given, **named):
        raise HFValidationError("Repo id must be in the form 'namespace/name'")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match="the hub refused a/b/c: Repo id"):
        distillers.from_pretrained("a/b/c")

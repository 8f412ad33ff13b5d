"""Files written by the version before the restructuring give today what they gave then."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import distillers
from distillers.cli import main as cli

BEFORE = Path(__file__).parent / "before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
IMAGES = torch.arange(2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
MODELS = {"teacher": None, "simkd": "tests.nets:tiny", "kd.safetensors": "tests.nets:tiny"}


@pytest.mark.parametrize("name", EXPECTED)
@torch.no_grad()
def test_logits_are_those_of_then(name):
    if name.endswith(".pt2") and torch.__version__ < "2.15":
        pytest.skip("torch 2.15 wrote it, and an older torch does not read a newer .pt2")
    net = distillers.load(BEFORE / name, model=MODELS.get(name))
    torch.testing.assert_close(net(IMAGES), torch.tensor(EXPECTED[name]), rtol=1e-5, atol=1e-6)
    assert net.card["dataset"] == "digits"
    assert net.preprocess(torch.zeros(8, 8, dtype=torch.uint8)[None]).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("name", ["teacher", "simkd", "kd.safetensors"])
def test_the_commands_read_them(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = MODELS[name]
    flags = ["--dataset", "digits", "--gpu_id", "cpu", *(["--model", model] if model else [])]
    assert cli.run("evaluate", [str(BEFORE / name), *flags]) == 0
    accuracy = distillers.load(BEFORE / name, model=model).card["accuracy"]
    assert re.search(rf"test_acc +{accuracy}\s", capfd.readouterr().out)


@pytest.mark.skipif(
    "bias" not in str(nn.BatchNorm2d(1)),
    reason="a cache's key has the network as torch prints it, and older versions print less",
)
def test_a_cache_of_the_teacher_is_used_as_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BEFORE / "cache", tmp_path / "cache")
    flags = ["--path_t", str(BEFORE / "teacher"), "--model_s", "tests.nets:tiny"]
    flags += ["--dataset", "digits", "--distill", "kd", "-c", "0.1", "-d", "0.9", "-b", "0"]
    flags += ["--epochs", "1", "--batch_size", "256", "--gpu_id", "cpu", "--trial", "0"]
    assert cli.run("student", [*flags, "--teacher_cache", "cache", "--views", "1"]) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (folder,) = (tmp_path / "cache").iterdir()
    for old in (BEFORE / "cache" / folder.name).glob("logits.*"):
        assert (folder / old.name).read_bytes() == old.read_bytes()
    assert "ran for 0 images" in capfd.readouterr().out

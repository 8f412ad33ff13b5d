"""Random damage to every kind of file of weights: refused, harmless, or said to be unverified."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from distillers import models
from distillers.checkpoints import export as exporting
from distillers.checkpoints import io as checkpoint
from distillers.checkpoints.card import complete_card
from distillers.checkpoints.load import Classifier, load
from distillers.errors import InputError

CARD = {
    "format": 1,
    "model": "resnet8",
    "num_classes": 10,
    "image_size": 32,
    "dataset": "digits",
    "mean": [0.5] * 3,
    "std": [0.2] * 3,
    "class_names": [str(n) for n in range(10)],
    "accuracy": 71.25,
}
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
OURS = ("checkpoint", "safetensors", "torch_export", "onnx")
FOREIGN = ("state dict", "foreign safetensors")


def write(kind, folder):
    """A file of that kind."""
    torch.manual_seed(0)
    net = models.create("resnet8", num_classes=10).eval()
    classifier = Classifier(net, CARD)
    state = net.state_dict()
    if kind in exporting.SUFFIXES:
        path = folder / f"x{exporting.SUFFIXES[kind]}"
        exporting.export(classifier, complete_card(classifier), path, kind, IMAGES)
    elif kind == "checkpoint":
        path = folder / "x.pth"
        checkpoint.save(path, {"model": state, "card": CARD, "best_acc": 71.25})
    elif kind == "state dict":
        path = folder / "x.pth"
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        path = folder / "x.safetensors"
        safetensors.torch.save_file(state, path)
    return path


def damage(content, rng):
    """Change a few bytes, zero or repeat a block, cut a part out, or cut the end off."""
    data = bytearray(content)
    start = int(rng.integers(len(data)))
    end = min(len(data), start + int(rng.integers(1, 200)))
    how = rng.integers(6)
    if how == 0:
        data[start] ^= 1 << int(rng.integers(8))
    elif how == 1:
        for place in rng.integers(len(data), size=5):
            data[place] = int(rng.integers(256))
    elif how == 2:
        data[start:end] = bytes(end - start)
    elif how == 3:
        data[start:end] = rng.bytes(end - start)
    elif how == 4:
        del data[start:end]
    else:
        del data[start:]
    return bytes(data)


@torch.no_grad()
def check(kind, number, tmp_path, caplog):
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    path = write(kind, tmp_path)
    model = "resnet8" if kind in FOREIGN else None
    content, whole = path.read_bytes(), load(path, model=model)
    expected, messages = whole(IMAGES), []
    rng = np.random.default_rng([number, sum(kind.encode())])
    for _ in range(number):
        damaged = damage(content, rng)
        path.write_bytes(damaged)
        caplog.clear()
        try:
            loaded = load(path, model=model)
            logits = loaded(IMAGES)
        except InputError as error:
            messages.append(str(error))
            continue
        is_same = torch.equal(logits, expected) and loaded.card == whole.card
        assert is_same or "not verified" in caplog.text
    assert all(str(path) in text and "\n" not in text for text in messages)
    if kind in OURS:
        assert len(messages) > 0.9 * number  # what is left hits the checksum itself or nothing


@pytest.mark.parametrize("kind", [*OURS, *FOREIGN])
def test_damage_is_never_another_network_in_silence(kind, tmp_path, caplog):
    check(kind, 30, tmp_path, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*OURS, *FOREIGN])
def test_damage_is_never_another_network_in_silence_in_many_places(kind, tmp_path, caplog):
    check(kind, 300, tmp_path, caplog)


@pytest.mark.parametrize("kind", ["checkpoint", "safetensors"])
def test_damage_to_a_card_with_a_right_checksum_is_refused_or_shown(kind, tmp_path):
    """Somebody who edits a card by hand gets a line, not a traceback."""
    rng = np.random.default_rng(0)
    net = models.create("resnet8", num_classes=10)
    path = tmp_path / ("x.pth" if kind == "checkpoint" else "x.safetensors")
    values = [None, -1, 10**12, 0.5, "", "x", [], [1], {}, {"a": 1}, True, [None], "timm:none"]
    for name in CARD:
        for value in [*values, json.dumps(rng.integers(9, size=2).tolist())]:
            card = {**CARD, name: value}
            if kind == "checkpoint":
                checkpoint.save(path, {"model": net.state_dict(), "card": card})
            else:
                exporting.write_safetensors(net, card, path)
            message = ""
            try:
                load(path, model="resnet8")
            except InputError as error:
                message = str(error)
            assert "\n" not in message

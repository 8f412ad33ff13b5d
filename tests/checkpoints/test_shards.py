"""Weights in several files with an index, as Hugging Face's libraries write them."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from distillers.checkpoints.initial import build_initial
from distillers.checkpoints.load import file_bytes, load
from distillers.errors import CorruptFileError, InputError

NAME = "timm:test_resnet"
STATE = timm.create_model("test_resnet", num_classes=5).state_dict()


def sharded(folder, suffix="safetensors"):
    """Write the weights in three files and return their index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, where = list(STATE), {}
    for number in range(3):
        file = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        part = {name: STATE[name] for name in names[number::3]}
        (save_file if suffix == "safetensors" else torch.save)(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_all_parts_are_read_from_the_index_or_its_folder(suffix, tmp_path, caplog):
    index = sharded(tmp_path, suffix)
    for path in (index, tmp_path):
        loaded = load(path, model=NAME)
        state = loaded.net.state_dict()
        assert all(torch.equal(value, STATE[name]) for name, value in state.items())
        assert loaded.card["num_classes"] == 5
    assert "not verified" in caplog.text
    assert file_bytes(index) == sum(file.stat().st_size for file in tmp_path.iterdir())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    assert load(tmp_path).card["model"] == NAME
    net = build_initial(NAME, str(tmp_path), num_classes=3, image_size=32).net
    assert torch.equal(net.state_dict()["conv1.0.weight"], STATE["conv1.0.weight"])


def test_a_missing_part_is_named(tmp_path):
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"3 files, of which 1 .*: model-00002-of-00003\.safe"):
        load(index, model=NAME)


def test_a_single_part_is_refused_with_the_name_of_the_index(tmp_path):
    sharded(tmp_path)
    for number in (1, 3):
        with pytest.raises(InputError, match=rf"part {number} of 3.*model\.safetensors\.index\.js"):
            load(tmp_path / f"model-0000{number}-of-00003.safetensors", model=NAME)


def test_parts_of_another_version_are_refused(tmp_path):
    index = sharded(tmp_path)
    save_file({"other": torch.ones(2)}, tmp_path / "model-00001-of-00003.safetensors")
    with pytest.raises(
        CorruptFileError, match=r"00001-of-00003\.safetensors does not hold.*and 27 more"
    ):
        load(index, model=NAME)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 3}}', "3 is no name of a file"),
        ('{"weight_map": {"a": "../x.bin"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a": "x.index.json"}}', "damaged or not a checkpoint"),
    ],
)
def test_an_index_that_is_not_valid_is_refused(text, words, tmp_path):
    (tmp_path / "x.index.json").write_text(text)
    with pytest.raises(CorruptFileError, match=words):
        load(tmp_path / "x.index.json", model=NAME)

"""Random damage to files of data sets: refused in a line, harmless, or said to be unverified."""

import random

import numpy as np
import pytest
import torch

from distillers.data import load
from distillers.errors import InputError
from tests.data import test_cifar, test_fashionmnist
from tests.run_folders import corrupt


def stl10(root):
    folder = root / "stl10_binary"
    folder.mkdir()
    names = "airplane bird car cat deer dog horse monkey ship truck"
    (folder / "class_names.txt").write_text("\n".join(names.split()))
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        rng.integers(256, size=(count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{part}_y.bin")
    return folder


WRITERS = {
    "cifar10": test_cifar.write_cifar10,
    "cifar100": test_cifar.write_cifar100,
    "fashionmnist": test_fashionmnist.write,
    "stl10": stl10,
}
FILES = [
    ("cifar10", "data_batch_3"),
    ("cifar10", "batches.meta"),
    ("cifar100", "train"),
    ("cifar100", "meta"),
    ("fashionmnist", "train-images-idx3-ubyte.gz"),
    ("fashionmnist", "t10k-labels-idx1-ubyte.gz"),
    ("fashionmnist", "train-images-idx3-ubyte"),
    ("fashionmnist", "train-labels-idx1-ubyte"),
    ("stl10", "train_X.bin"),
    ("stl10", "test_y.bin"),
    ("stl10", "class_names.txt"),
]


def load_or_message(name, root):
    try:
        return load(name, root, download=False), ""
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "file"), FILES, ids=lambda value: value)
def test_damage_is_never_other_images_in_silence(name, file, count, tmp_path, capsys):
    options = {"packed": file.endswith(".gz")} if name == "fashionmnist" else {}
    path = WRITERS[name](tmp_path, **options) / file
    whole, content = load(name, tmp_path, download=False), path.read_bytes()
    rng = random.Random(f"{name} {file} {count}")
    refused = 0
    for _ in range(count):
        path.write_bytes(corrupt(content, rng))
        capsys.readouterr()
        found, message = load_or_message(name, tmp_path)
        if found is None:
            refused += 1
            assert message.isprintable()
            assert str(tmp_path) in message
            assert len(message) < 1000
            continue
        is_same = found.class_names == whole.class_names and all(
            torch.equal(getattr(found, part), getattr(whole, part))
            for part in ("train_images", "train_labels", "test_images", "test_labels")
        )
        said = capsys.readouterr().err
        assert is_same or ("not verified" in said and path.name in said)
    assert refused

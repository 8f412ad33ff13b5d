import contextlib
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from distillers.data import load
from distillers.data.datasets import fashionmnist
from distillers.errors import InputError

REAL = fashionmnist.DEBIAN


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def pictures(num, size=28):
    return np.random.default_rng(num).integers(0, 256, (num, size, size), dtype=np.uint8)


def write(folder, packed=True, size=28):
    folder.mkdir(parents=True, exist_ok=True)
    for part, num in (("train", 6), ("t10k", 3)):
        labels = np.arange(num, dtype=np.uint8)
        for name, array in (("images-idx3", pictures(num, size)), ("labels-idx1", labels)):
            path = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


@pytest.fixture(autouse=True)
def without_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(fashionmnist, "DEBIAN", tmp_path / "debian")


@pytest.mark.parametrize("place", ["data", "data/FashionMNIST/raw", "debian"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_in_three_places_packed_or_not(tmp_path, place, packed):
    write(tmp_path / place, packed)
    images = load("fashionmnist", tmp_path / "data", download=False)
    assert images.train_images.shape == (6, 1, 32, 32)
    assert images.test_labels.tolist() == [0, 1, 2]
    assert np.array_equal(images.test_images[:, 0, 2:30, 2:30], pictures(3))
    inside = images.train_images[:, :, 2:30, 2:30].long().sum()
    assert inside == images.train_images.long().sum() == int(pictures(6).sum(dtype=np.int64))


def test_the_own_folder_comes_first(tmp_path):
    write(tmp_path / "data" / "FashionMNIST" / "raw")
    broken = write(tmp_path / "data") / "train-images-idx3-ubyte.gz"
    broken.write_bytes(b"x")
    assert len(load("fashionmnist", tmp_path / "data", download=False).train_labels) == 6


def test_where_files_are_missing_it_says_what_to_do(tmp_path):
    write(tmp_path / "data")
    (tmp_path / "data" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        load("fashionmnist", tmp_path / "data", download=False)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("keep", [0, 3, 10, -1])
def test_a_file_cut_short_is_named(tmp_path, packed, keep):
    path = next(write(tmp_path, packed).glob("train-images*"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte(.gz)? is damaged.*Delete it"):
        load("fashionmnist", tmp_path, download=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros((2, 2), np.uint8)), "does not begin"),
        (b"\0\0\x0d\x01" + idx(np.zeros(6, np.uint8))[4:], "does not begin"),
        (idx(np.zeros(6, np.uint8)) + b"\0", "header announces 6 bytes, it has 7"),
        (idx(np.zeros(5, np.uint8)), "5 labels up to 0 for 6 images"),
        (idx(np.full(6, 10, np.uint8)), "6 labels up to 10 for 6 images of 10 classes"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, content, message):
    (write(tmp_path, packed=False) / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load("fashionmnist", tmp_path, download=False)


def test_pictures_of_another_size_are_refused(tmp_path):
    write(tmp_path, size=14)
    with pytest.raises(InputError, match="14x14"):
        load("fashionmnist", tmp_path, download=False)


@pytest.mark.skipif(not REAL.is_dir(), reason="Debian's package is not installed")
def test_mean_and_std_are_those_of_the_real_training_images(monkeypatch):
    monkeypatch.setattr(fashionmnist, "DEBIAN", REAL)
    images = load("fashionmnist", Path("nowhere"), download=False)
    assert images.train_images.shape == (60000, 1, 32, 32)
    counts = torch.bincount(images.train_images.flatten().int(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = float((counts * levels).sum() / counts.sum())
    std = float(((counts * (levels - mean).square()).sum() / counts.sum()).sqrt())
    assert images.mean[0] == pytest.approx(mean, abs=5.1e-5)
    assert images.std[0] == pytest.approx(std, abs=5.1e-5)


def test_unpacked_files_are_said_to_be_unverified(tmp_path, capsys):
    write(tmp_path / "data", packed=False)
    load("fashionmnist", tmp_path / "data", download=False)
    assert capsys.readouterr().err.startswith("fashionmnist is not verified: train-images-idx3")


def test_a_flipped_bit_in_a_packed_file_never_gives_other_images(tmp_path, capsys):
    path = write(tmp_path / "data") / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    right = load("fashionmnist", tmp_path / "data", download=False).train_images
    assert not capsys.readouterr().err
    rng = np.random.default_rng(0)
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with contextlib.suppress(InputError):
            found = load("fashionmnist", tmp_path / "data", download=False).train_images
            assert torch.equal(found, right)


def test_a_file_that_unpacks_without_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fashionmnist, "MAX_SIZE", 1 << 20)
    path = write(tmp_path / "data") / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(InputError, match="it has more than 1,048,576 bytes"):
        load("fashionmnist", tmp_path / "data", download=False)

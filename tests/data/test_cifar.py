import io
import os
import pickle
import struct
import tarfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch

from distillers.data import load
from distillers.data.datasets import cifar, pickles
from distillers.errors import InputError

REAL = Path(__file__).parents[2] / "data"


def write(path, content, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def pixels(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 3072), dtype=np.uint8)


def write_cifar100(data_dir, protocol=2, train=12, test=5):
    folder = data_dir / "cifar-100-python"
    for file, num in (("train", train), ("test", test)):
        labels = [(7 * i) % 100 for i in range(num)]
        content = {
            b"filenames": [b"a.png"] * num,
            b"batch_label": b"",
            b"fine_labels": labels,
            b"coarse_labels": [label // 5 for label in labels],
            b"data": pixels(num),
        }
        write(folder / file, content, protocol)
    names = [f"class {i}".encode() for i in range(100)]
    coarse = [b"group"] * 20
    write(folder / "meta", {b"fine_label_names": names, b"coarse_label_names": coarse}, protocol)
    return folder


def write_cifar10(data_dir):
    folder = data_dir / "cifar-10-batches-py"
    for i, file in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        write(folder / file, {b"data": pixels(4, seed=i), b"labels": [i, 9, 0, 5]})
    write(folder / "batches.meta", {b"label_names": [b"airplane"] * 10, b"num_vis": 3072})
    return folder


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_cifar100_is_read_as_it_was_written(tmp_path, protocol):
    write_cifar100(tmp_path, protocol)
    images = load("cifar100", tmp_path, download=False)
    assert images.train_images.shape == (12, 3, 32, 32)
    assert images.train_images.dtype == torch.uint8
    assert images.test_labels.tolist() == [0, 7, 14, 21, 28]
    assert images.class_names[99] == "class 99"
    assert images.num_classes == 100
    # 1,024 red values row by row, then green, then blue
    assert int(images.train_images[11, 2, 31, 1]) == pixels(12)[11, 2048 + 31 * 32 + 1]
    assert images.mean == (0.5071, 0.4867, 0.4408)
    assert images.std == (0.2675, 0.2565, 0.2761)


def test_cifar10_joins_its_five_files_in_order(tmp_path):
    write_cifar10(tmp_path)
    images = load("cifar10", tmp_path, download=False)
    assert images.train_labels.tolist() == [x for i in range(5) for x in (i, 9, 0, 5)]
    assert images.test_labels.tolist() == [5, 9, 0, 5]
    assert int(images.train_images[7, 0, 0, 3]) == pixels(4, seed=1)[3, 3]
    assert images.mean != (0.5071, 0.4867, 0.4408)
    assert images.flip


def test_what_python_2_wrote_is_read(tmp_path):
    """The official files: byte strings (opcode U or T) and numpy.core's names."""
    raw = bytes(range(256)) * 12
    text = b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\n"
    text += b"ndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x05"
    text += b"U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    text += b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tbU\x0bfine_labelsq\x07]q\x08K\x05au."
    path = tmp_path / "train"
    path.write_bytes(text)
    content = pickles.read(path)
    assert content["fine_labels"] == [5]
    data = content["data"]
    assert isinstance(data, np.ndarray)
    assert data.tobytes() == raw
    assert data.shape == (1, 3072)


def test_an_array_in_columns_keeps_its_shape(tmp_path):
    write(tmp_path / "x", {"data": np.asfortranarray(pixels(3))})
    assert np.array_equal(pickles.read(tmp_path / "x")["data"], pixels(3))


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_file_runs_nothing_and_is_refused(tmp_path, protocol):
    folder = write_cifar100(tmp_path)
    write(folder / "test", {b"data": Harmful(tmp_path / "made")}, protocol)
    with pytest.raises(InputError, match=rf"test asks for {os.mkdir.__module__}.mkdir") as caught:
        load("cifar100", tmp_path, download=False)
    assert "Delete the folder" in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.", "asks for builtins.eval"),
        (b"cnumpy\nload\n.", "asks for numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0bcore.memmap\x93.", "asks for numpy.core.memmap"),
        (b"cnumpy\nndarray\n(K\x09tR.", "calls the type"),
        (b"cnumpy\ndtype\n(U\x01OtR.", "array of O"),
        (b"cnumpy\ndtype\n}b.", "modify a function"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00xU\x05rot13tR.", "unexpected encoding"),
        (b"cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR.", "unexpected way"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01K\x02tb.", "other than bytes"),
        (b"]K\x01a.", "holds a list"),
        (b"}U\x04dataN", "cut short"),
        (b"", "cut short"),
        (b"\xff\xff\xff", "cut short"),
    ],
)
def test_a_file_that_is_not_cifars_is_refused(tmp_path, program, message):
    (tmp_path / "x").write_bytes(program)
    with pytest.raises(InputError, match=message):
        pickles.read(tmp_path / "x")


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_a_file_cut_short_is_named(tmp_path, keep):
    path = write_cifar100(tmp_path) / "train"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="cifar-100-python/train is damaged or cut short"):
        load("cifar100", tmp_path, download=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": pixels(2)}, "no list of numbers 'fine_labels'"),
        ({b"data": pixels(2), b"fine_labels": [1]}, "2 images and 1 labels"),
        ({b"data": pixels(0), b"fine_labels": []}, "0 images"),
        ({b"data": pixels(2), b"fine_labels": [1, 100]}, "range from 1 to 100"),
        ({b"data": pixels(2)[:, :99].copy(), b"fine_labels": [1, 1]}, "3,072"),
        ({b"data": [1, 2], b"fine_labels": [1, 1]}, "3,072"),
    ],
)
def test_contents_that_do_not_fit_are_refused(tmp_path, content, message):
    write(write_cifar100(tmp_path) / "train", content)
    with pytest.raises(InputError, match=message):
        load("cifar100", tmp_path, download=False)


@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_folder_says_what_to_fetch(tmp_path, empty):
    if empty:
        (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(InputError, match=r"Fetch https://\S*/cifar-100-python.tar.gz"):
        load("cifar100", tmp_path, download=False)


def test_a_folder_without_one_file_names_it(tmp_path):
    (write_cifar10(tmp_path) / "data_batch_3").unlink()
    with pytest.raises(InputError, match="lacks data_batch_3"):
        load("cifar10", tmp_path)


def archived(tmp_path, monkeypatch):
    """An archive of a small CIFAR-100, admitted by its own checksum."""
    source = tmp_path / "source"
    write_cifar100(source)
    archive = tmp_path / "data" / "cifar-100-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source / "cifar-100-python", "cifar-100-python")
        for name in ("../outside", "/outside", "cifar-100-python/../../outside"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    edition = cifar._CIFAR100.__dict__ | {"md5": md5(archive.read_bytes()).hexdigest()}
    monkeypatch.setattr(cifar, "_CIFAR100", cifar._Edition(**edition))
    return archive


def test_an_archive_put_there_by_hand_is_unpacked_and_nothing_beside_it(tmp_path, monkeypatch):
    archive = archived(tmp_path, monkeypatch)
    images = load("cifar100", archive.parent, download=False)
    assert len(images.train_labels) == 12
    folder = archive.parent / "cifar-100-python"
    assert sorted(p.name for p in folder.iterdir()) == ["meta", "test", "train"]
    assert not list(tmp_path.rglob("outside"))
    assert not list(archive.parent.glob(".unpack*"))


def test_a_damaged_archive_is_refused_and_kept(tmp_path, monkeypatch):
    archive = archived(tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"has md5 .* delete it to download"):
        load("cifar100", archive.parent, download=False)
    assert archive.exists()
    assert not (archive.parent / "cifar-100-python").exists()


@pytest.mark.skipif(not (REAL / "cifar-10-batches-py").is_dir(), reason="CIFAR-10 is not here")
def test_mean_and_std_are_those_of_the_real_training_images():
    images = load("cifar10", REAL, download=False)
    assert images.train_images.shape == (50000, 3, 32, 32)
    levels = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(3):
        counts = torch.bincount(images.train_images[:, channel].flatten().int(), minlength=256)
        share = counts / counts.sum()
        mean = float((share * levels).sum())
        std = float((share * (levels - mean).square()).sum().sqrt())
        assert images.mean[channel] == pytest.approx(mean, abs=5.1e-5)
        assert images.std[channel] == pytest.approx(std, abs=5.1e-5)


@pytest.mark.parametrize("write_files", [write_cifar10, write_cifar100])
def test_files_that_are_not_the_published_ones_are_said_to_be_unverified(
    tmp_path, capsys, write_files
):
    folder = write_files(tmp_path)
    name = {"cifar-100-python": "cifar100"}.get(folder.name, "cifar10")
    load(name, tmp_path, download=False)
    printed = capsys.readouterr().err
    assert printed.startswith(f"{name} is not verified: ")
    assert all(file.name in printed for file in folder.iterdir())
    assert len(printed.splitlines()) == 1


def test_a_number_of_a_stored_value_takes_no_memory(tmp_path):
    folder = write_cifar100(tmp_path)
    for bomb in (b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x05\x96" + bytes(5) + b"\x01\0\0."):
        (folder / "train").write_bytes(bomb)
        with pytest.raises(InputError, match="train is damaged"):
            load("cifar100", tmp_path, download=False)

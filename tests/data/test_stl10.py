import numpy as np
import pytest

from distillers import data
from distillers.errors import InputError


def write_stl10(data_dir):
    folder = data_dir / "stl10_binary"
    folder.mkdir(parents=True)
    (folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    for part, count in (("train", 4), ("test", 3)):
        pixels = np.zeros((count, 3, 96, 96), dtype=np.uint8)
        pixels[:, 1, 5, 7] = 200  # column 5, row 7: images are stored column by column
        pixels.tofile(folder / f"{part}_X.bin")
        np.arange(1, count + 1, dtype=np.uint8).tofile(folder / f"{part}_y.bin")
    return data_dir


@pytest.fixture
def root(tmp_path):
    return write_stl10(tmp_path)


def test_images_are_upright_and_labels_count_from_0(root):
    images = data.load("stl10", root, download=False)
    assert images.image_size == 96
    assert images.train_labels.tolist() == [0, 1, 2, 3]
    assert images.test_images[0].nonzero().tolist() == [[1, 7, 5]]


def test_a_short_or_missing_file_is_named(root):
    path = root / "stl10_binary" / "train_X.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"train_X.bin is damaged"):
        data.load("stl10", root, download=False)
    path.unlink()
    with pytest.raises(InputError, match=r"lacks train_X.bin"):
        data.load("stl10", root, download=False)
    with pytest.raises(InputError, match="stl10 is not in"):
        data.load("stl10", root / "elsewhere", download=False)

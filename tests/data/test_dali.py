"""The same training images with NVIDIA DALI as without it; needs the extra `dali`, no GPU."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from distillers import data
from distillers.data import DecodeOptions
from distillers.data.loaders.jpeg import upright_size
from distillers.data.normalization import IMAGENET_STD as STD
from distillers.distributed.world import Shard
from distillers.errors import InputError
from tests.data.test_jpeg import STRANGE, tiff, with_exif
from tests.data.trees import WNIDS, picture, tree

pytest.importorskip("nvidia.dali")
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return tree(tmp_path / "photos")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """40 parts of scikit-learn's two photographs, of many shapes, half of them turned."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(40):
        whole = load_sample_images().images[number % 2]
        height, width = rng.integers(150, 428), rng.integers(150, 641)
        top, left = rng.integers(0, 428 - height), rng.integers(0, 641 - width)
        out = io.BytesIO()
        part = Image.fromarray(whole[top : top + height, left : left + width])
        part.save(out, "JPEG", quality=90, subsampling=number % 3, progressive=number % 5 == 0)
        for where in ("train", "val") if number < 2 else ("train",):
            path = root / where / str(number % 2) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = with_exif(out.getvalue(), tiff(1 + number // 2 % 8))
            path.write_bytes(turned if number >= 20 else out.getvalue())
    return root


def batches(root, dali="cpu", epoch=1, start_batch=0, shard=None, drop_last=False, **settings):
    threads = {"num_workers": 2 if dali else 0}  # without DALI they would be processes
    reading = DecodeOptions(**({"image_size": 32} | threads | settings), dali=dali)
    options = {} if shard is None else {"shard": Shard(*shard)}
    made = data.source_of("folder", root, reading=reading)
    loader = made.train_loader(5, seed=1, drop_last=drop_last, device=CPU, **options)
    return list(loader.epoch(epoch, start_batch))


def joined(epoch):
    return [torch.cat([batch[part] for batch in map(tuple, epoch)]) for part in range(3)]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


def grey_levels(one, other):
    """Differences of normalized images, in steps of 1 / 255."""
    return (one - other).abs() * 255 * torch.tensor(STD).view(3, 1, 1)


def test_photographs_are_cut_and_mirrored_as_without_dali(photographs):
    ours, labels, index = joined(batches(photographs, image_size=128))
    theirs, *facts = joined(batches(photographs, None, image_size=128))
    assert torch.equal(labels, facts[0])
    assert torch.equal(index, facts[1])
    different = grey_levels(ours, theirs).mean((1, 2, 3))
    assert different.mean() < 0.2  # 0.11 measured
    assert different.max() < 0.5
    # which only means something if a cut that is a pixel off would be seen
    assert grey_levels(ours, theirs.roll(1, -1)).mean((1, 2, 3)).min() > 0.8
    assert grey_levels(ours, theirs.flip(-1)).mean((1, 2, 3)).min() > 1


def test_neither_threads_nor_the_start_change_an_epoch(photographs):
    epoch = batches(photographs)
    assert same(epoch, batches(photographs, num_workers=0))
    assert same(epoch[3:], batches(photographs, start_batch=3))
    assert not same(epoch, batches(photographs, epoch=2))


def test_an_epoch_that_is_left_does_not_disturb_the_next(photographs):
    reading = DecodeOptions(image_size=32, num_workers=2, dali="cpu")
    made = data.source_of("folder", photographs, reading=reading)
    loader = made.train_loader(5, seed=1, drop_last=False, device=CPU)
    left = loader.epoch(1)
    next(left)
    assert same(list(loader.epoch(2)), batches(photographs, epoch=2))


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_image_comes_once_over_all_processes(root, drop_last):
    parts = [batches(root, shard=(rank, 2), drop_last=drop_last) for rank in range(2)]
    without = [batches(root, None, shard=(rank, 2), drop_last=drop_last) for rank in range(2)]
    for mine, theirs in zip(parts, without, strict=True):
        assert [b.index.tolist() for b in mine] == [b.index.tolist() for b in theirs]
        assert [b.rows_per_rank for b in mine] == [b.rows_per_rank for b in theirs]
    rows = sorted(torch.cat([joined(part)[2] for part in parts]).tolist())
    assert rows == list(range(18)) if not drop_last else len(set(rows)) == 10


def test_fixed_views_are_those_that_come_without_dali(photographs):
    made = [
        data.source_of(
            "folder", photographs, reading=DecodeOptions(image_size=128, dali=dali)
        ).train_loader(5, seed=1, drop_last=False, device=CPU, views=2)
        for dali in ("cpu", None)
    ]
    for ours, theirs in zip(*(loader.epoch(1) for loader in made), strict=True):
        assert ours.view is not None
        assert torch.equal(ours.view, theirs.view)
        assert grey_levels(ours.images, theirs.images).mean() < 0.5


def test_the_global_random_state_is_left_alone(root):
    before = torch.get_rng_state()
    batches(root)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_ordinary_jpeg_is_the_same_to_the_bit(tmp_path):
    root = tree(tmp_path / "strange", train=1)
    image = picture(3)
    image.convert("CMYK").save(root / "train" / WNIDS[0] / "cmyk.jpg")
    image.convert("L").save(root / "train" / WNIDS[0] / "grey.png")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "train" / WNIDS[1] / "deep.png")
    image.save(root / "train" / WNIDS[1] / "plain.webp")
    image.convert("RGBA").save(root / "train" / WNIDS[2] / "clear.png")
    (root / "train" / WNIDS[2] / "colours.jpg").write_bytes(STRANGE["red, green, blue as they are"])
    ours, theirs = joined(batches(root)), joined(batches(root, None))
    assert torch.equal(ours[2], theirs[2])
    different = grey_levels(ours[0], theirs[0]).amax((1, 2, 3))
    made = data.source_of("folder", root)
    for row, most in zip(ours[2].tolist(), different.tolist(), strict=True):
        path = made.train.paths[row]
        with open(path, "rb") as file:
            ordinary = upright_size(file.read()) is not None
        assert most < 20 if ordinary else most == 0, path


SPOILED = ["CMYK cut short", "text", "empty", "truncated", "a marker in the picture", "one pixel"]


@pytest.mark.parametrize("how", SPOILED)
def test_a_bad_image_is_named_or_replaced_as_without_dali(root, how, capsys):
    bad = root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    bad.write_bytes(STRANGE["CMYK"][:500] if how == "CMYK cut short" else STRANGE[how])
    told = []
    for dali in ("cpu", None):
        with pytest.raises(InputError, match=f"{bad.name} ") as error:
            batches(root, dali)
        told.append(str(error.value))
    assert told[0] == told[1]
    ours, theirs = (joined(batches(root, dali, on_bad_image="skip")) for dali in ("cpu", None))
    assert torch.equal(ours[2], theirs[2])
    assert 8 not in ours[2]
    replaced = [row for row in ours[2].tolist() if ours[2].tolist().count(row) > 1]
    assert len(ours[2]) == 18
    assert replaced
    said = capsys.readouterr().err.splitlines()
    assert said[0] == said[1]
    assert "1 bad images were replaced by others in epoch 1" in said[0]


def test_an_image_that_dali_alone_fails_on_stops_the_run(root, monkeypatch):
    from distillers.data.loaders import dali

    bad = root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    picture(0).save(bad, "PNG")  # a whole image
    bad.write_bytes(bad.read_bytes()[:60])  # which DALI is told to decode though it is damaged
    monkeypatch.setattr(dali, "upright_size", lambda _: (40, 50))
    with pytest.raises(InputError, match=f"{bad.name} cannot be read as an image"):
        batches(root)
    bad.unlink()

    def fail(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(dali.DaliBatches, "_run", fail)
    with pytest.raises(InputError, match=r"(?s)can be read without it.*no memory left"):
        batches(root)


def test_scores_do_not_depend_on_dali(root):
    tests = [
        data.source_of(
            "folder", root, reading=DecodeOptions(image_size=128, dali=dali)
        ).test_loader(CPU)
        for dali in ("cpu", None)
    ]
    assert same(*(list(loader.epoch(1)) for loader in tests))


def test_a_gpu_is_asked_for_where_there_is_none(root):
    with pytest.raises(InputError, match="--dali gpu decodes on the GPU that trains"):
        batches(root, "gpu")

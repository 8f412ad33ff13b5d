import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distillers import data
from distillers.data import DecodeOptions
from distillers.data.datasets.listing import list_classes
from distillers.data.loaders.decode import random_crop_box, read
from distillers.errors import InputError
from tests.data.trees import WNIDS, picture, tiny_tree, tree

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return tree(tmp_path / "photos")


def source(root, name="folder", **settings):
    return data.source_of(name, root, reading=DecodeOptions(**({"image_size": 32} | settings)))


def loader(root, seed=1, batch_size=5, **settings):
    made = source(root, **settings)
    return made.train_loader(batch_size, seed=seed, drop_last=False, device=CPU)


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_a_tree_is_listed_by_class_and_scored_in_order(root, name):
    made = source(root, name)
    assert (made.num_classes, made.class_names) == (3, WNIDS)
    assert made.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    batch = next(made.test_loader(CPU).epoch(1))
    assert batch.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert batch.index.tolist() == list(range(12))
    assert batch.images.shape == (12, 3, 32, 32)
    assert torch.equal(made.sample(CPU), batch.images[:2])


def test_the_middle_of_an_image_is_scored_as_the_usual_pipeline_does(root):
    from torchvision import transforms

    usual = transforms.Compose(
        [
            *(transforms.Resize(37), transforms.CenterCrop(32), transforms.ToTensor()),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = Image.open(root / "val" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG")
    ours = source(root).sample(CPU)[0]
    torch.testing.assert_close(ours, usual(image), rtol=0, atol=0.03)  # one grey level is 0.018


def test_workers_do_not_change_an_epoch(root):
    alone, together = loader(root), loader(root, num_workers=2)
    first = list(alone.epoch(1))
    assert same(first, list(together.epoch(1)))
    assert same(list(alone.epoch(2))[2:], list(together.epoch(2, start_batch=2)))
    assert same(first, list(alone.epoch(1)))
    assert not same(first, list(alone.epoch(2)))
    assert sorted(row for batch in first for row in batch.index.tolist()) == list(range(18))
    assert not same(first, list(loader(root, seed=2).epoch(1)))


def test_the_global_random_state_is_left_alone(root):
    before = torch.get_rng_state()
    list(loader(root).epoch(1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_random_crop_lies_inside_and_has_the_asked_area():
    import random

    rng, shares = random.Random(0), []
    for _ in range(2000):
        top, left, height, width = random_crop_box(375, 500, rng)
        assert 0 <= top <= 375 - height
        assert 0 <= left <= 500 - width
        shares.append(height * width / (375 * 500))
    assert 0.079 < min(shares) < 0.1
    assert 0.4 < sum(shares) / len(shares) < 0.5
    assert random_crop_box(10, 1000, rng)[2] == 10


def test_one_folder_is_split_the_same_way_each_time(root):
    parts = [source(root / "train", val_fraction=1 / 3) for _ in range(2)]
    assert torch.equal(parts[0].test_rows, parts[1].test_rows)
    rows = [*parts[0].train_rows.tolist(), *parts[0].test_rows.tolist()]
    assert sorted(rows) == list(range(18))
    assert parts[0].split(0.3, 1) == (parts[0], None)
    with pytest.raises(InputError, match="--val_fraction"):
        source((root / "train").rename(root / "all"))


def test_held_out_images_are_scored_and_not_trained_on(root):
    kept, rest = source(root).split(1 / 3, 0)
    assert len(kept.train_labels) == 12
    assert rest.test_loader(CPU).num_images == 6
    assert not set(kept.train_rows.tolist()) & set(rest.test_rows.tolist())


def test_tiny_imagenet_reads_its_annotations(tmp_path):
    made = data.source_of("tinyimagenet", tiny_tree(tmp_path / "tiny-imagenet-200").parent)
    assert made.image_size == 64
    batch = next(made.test_loader(CPU).epoch(1))
    assert batch.labels.tolist() == [0, 1, 2, 0, 1, 2]
    annotations = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    lines = annotations.read_text().splitlines(keepends=True)
    annotations.write_text("".join(lines[1:]))
    with pytest.raises(InputError, match=r"1 images have no line \(val_0.JPEG\)"):
        data.source_of("tinyimagenet", tmp_path)
    annotations.write_text("".join(lines[:-1]) + "val_5.JPEG\tn99\n")
    with pytest.raises(InputError, match="line 6, reads"):
        data.source_of("tinyimagenet", tmp_path)
    annotations.write_text("".join(lines) + lines[0].replace(WNIDS[0], WNIDS[1]))
    with pytest.raises(InputError, match=r"line 7, assigns a second class to val_0\.JPEG"):
        data.source_of("tinyimagenet", tmp_path)


def test_cmyk_16_bits_grey_and_turned_images_are_converted(tmp_path):
    image = picture(3)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    image.convert("L").save(tmp_path / "grey.png")
    image.save(tmp_path / "plain.png")
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    plain = read(str(tmp_path / "plain.png"))
    grey, deep = read(str(tmp_path / "grey.png")), read(str(tmp_path / "deep.png"))
    assert plain.shape == grey.shape == deep.shape == (3, 48, 60)
    assert torch.equal(grey, deep)
    cmyk = read(str(tmp_path / "cmyk.jpg")).float()
    assert (cmyk - plain.float()).abs().mean() < 8
    assert read(str(tmp_path / "turned.jpg")).shape == (3, 60, 48)


def spoil(path, how):
    whole = path.read_bytes()
    if how == "text":
        path.write_text("not an image")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        picture(0, 1, 1).save(path)


@pytest.mark.parametrize("how", ["text", "truncated", "empty", "one pixel"])
def test_a_bad_image_is_named_or_counted_and_replaced(root, how, capsys):
    bad = root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    spoil(bad, how)
    with pytest.raises(InputError, match=f"{bad.name} "):
        list(loader(root).epoch(1))
    skipping = loader(root, on_bad_image="skip")
    epoch = list(skipping.epoch(1))
    assert sum(len(batch.labels) for batch in epoch) == 18
    rows = torch.cat([batch.index for batch in epoch])
    assert 8 not in rows
    labels = torch.cat([batch.labels for batch in epoch])
    assert torch.equal(labels, source(root).train_labels[rows])
    assert "1 bad images were replaced" in capsys.readouterr().err
    assert skipping.num_bad == 1
    assert same(epoch, list(skipping.epoch(1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_of_bad_images_is_named_and_each_file_counted_once(root, workers, capsys):
    for path in (root / "train" / WNIDS[1]).iterdir():
        spoil(path, "text")
    skipping = loader(root, on_bad_image="skip", num_workers=workers)
    list(skipping.epoch(1))
    said = capsys.readouterr().err
    assert skipping.num_bad == 6
    assert said.startswith("6 bad images were replaced")
    assert f"WARNING: no image of the class of {root}/train/{WNIDS[1]}/" in said


def test_a_class_is_not_named_whose_images_were_read_before_a_resume(root, capsys):
    resumed = loader(root, on_bad_image="skip", batch_size=1)
    last = int(resumed._order(1).rows[-1])
    spoil(Path(resumed._images.path(last)), "text")
    list(resumed.epoch(1, len(resumed) - 1))
    said = capsys.readouterr().err
    assert "1 bad images were replaced" in said
    assert "WARNING" not in said


def test_a_bad_image_is_named_by_a_worker_too(root):
    spoil(root / "val" / WNIDS[0] / f"{WNIDS[0]}_3.JPEG", "text")
    with pytest.raises(InputError, match=r"n01440764_3.JPEG cannot be read as an image"):
        list(source(root, num_workers=1).test_loader(CPU).epoch(1))
    skipped = list(source(root, on_bad_image="skip").test_loader(CPU).epoch(1))
    assert skipped[0].index.tolist() == [0, 1, 2, *range(4, 12)]


def break_tree(root, how):
    first = root / "train" / WNIDS[0]
    if how == "empty class":
        for path in first.iterdir():
            path.unlink()
    elif how == "only in val":
        (root / "val" / "zebra").mkdir()
        picture(1).save(root / "val" / "zebra" / "a.png")
    elif how == "only in train":
        (root / "train" / "zebra").mkdir()
        picture(1).save(root / "train" / "zebra" / "a.png")
    elif how == "folder loop":
        (first / "again").symlink_to(first.parent, target_is_directory=True)
    elif how == "file loop":
        (first / "a.jpg").symlink_to(first / "a.jpg")
    elif how == "dead link":
        (first / "a.jpg").symlink_to(first / "nowhere.jpg")
    elif how == "other kind":
        picture(1).save(first / "a.bmp")
    elif how == "no val":
        (root / "val").rename(root / "holdout")


BROKEN = {
    "empty class": "no image of class n01440764",
    "only in val": "1 only in .*val: zebra",
    "only in train": "1 only in .*train: zebra",
    "folder loop": "again is a symbolic link to .*train, a folder above it",
    "file loop": "a.jpg is a .*(loop|dead symbolic link)",
    "dead link": "a.jpg is a dead symbolic link",
    "other kind": "a.bmp is an image in an unsupported format",
    "no val": "neither val/ nor test/",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_tree_is_told_at_once(root, how):
    break_tree(root, how)
    with pytest.raises(InputError, match=BROKEN[how]):
        source(root)


def test_a_wrong_folder_gets_a_hint(root):
    with pytest.raises(InputError, match=r"did you mean .*photos"):
        source(root.parent / "photo")
    with pytest.raises(InputError, match=r"did you mean --data_dir .*photos"):
        source(root.parent)
    with pytest.raises(InputError, match=r"did you mean --data_dir .*photos"):
        source(root / "train", "imagenet")
    (root.parent / "none").mkdir()
    with pytest.raises(InputError, match="distillers data prepare imagenet"):
        source(root.parent / "none", "imagenet")
    with pytest.raises(InputError, match="does not fit into memory"):
        data.load("imagenet")


def test_other_files_are_left_out_with_a_message(root, capsys):
    (root / "train" / WNIDS[0] / "notes.txt").touch()
    (root / "train" / WNIDS[0] / ".DS_Store").touch()
    (root / "train" / ".n07.part").mkdir()
    assert len(source(root).train_labels) == 18
    assert "2 entries of" in capsys.readouterr().err


def test_many_files_are_listed_in_seconds(tmp_path):
    for name in range(20):
        (tmp_path / f"{name:02}").mkdir()
        for i in range(1000):
            os.close(os.open(tmp_path / f"{name:02}" / f"{i}.jpg", os.O_CREAT))
    start = time.monotonic()
    listing = list_classes(tmp_path)
    assert len(listing.paths) == 20000
    assert time.monotonic() - start < 10
    assert listing.paths[19999] == str(tmp_path / "19" / "999.jpg")


def test_dali_is_refused_where_it_can_do_nothing(root, monkeypatch):
    with pytest.raises(InputError, match="digits is a dataset in memory, where nothing is decoded"):
        data.source_of("digits", reading=DecodeOptions(dali="cpu"))
    monkeypatch.setattr("distillers.config.data.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install -e \"\.\[dali\]\""):
        loader(root, dali="cpu")

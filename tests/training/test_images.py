"""What a run says about its images, and that it does not resume on others."""

import os
import shutil
from dataclasses import replace

import pytest

from distillers import data
from distillers.cli import main as cli
from distillers.data import DecodeOptions
from distillers.training.images import Splits, describe
from distillers.training.teacher_scores import chance_warnings
from tests.data.trees import picture, tree

CLASSES = ("cat", "cow", "dog")


def source(root, **settings):
    return data.source_of("folder", root, reading=DecodeOptions(**({"image_size": 32} | settings)))


def test_classes_and_numbers_of_images_are_printed(tmp_path):
    names = tuple(f"class{number:02d}" for number in range(12))
    made = source(tree(tmp_path / "photos", names, train=5, val=1))
    train, val = made.split(0.2, 0)
    (line,) = describe(Splits(train, val, made), 4)
    assert line.startswith("12 classes (class00, class01, ")
    assert "class09 and 2 more); images: 48 training, 12 test, 12 validation" in line


def test_classes_without_a_scored_image_are_named(tmp_path):
    root = tree(tmp_path / "photos", CLASSES, train=20) / "train"
    for path in sorted((root / "cow").iterdir())[1:]:
        path.unlink()
    made = source(root, val_fraction=0.2)
    _, *more = describe(Splits(made, None, made), 4)
    assert more == ["WARNING: no val image of class cow"]


@pytest.mark.parametrize("how", ["copy", "link", "folder"])
def test_training_images_that_are_scored_are_warned_of(tmp_path, how):
    root = tree(tmp_path / "photos", CLASSES)
    given = root / "val" / "cow" / "cow_0.JPEG"
    made = source(root)
    assert len(describe(Splits(made, None, made), 4)) == 1
    if how == "copy":
        shutil.copy(given, root / "train" / "cat" / "other name.jpg")
    elif how == "link":
        (root / "train" / "cow" / "a.png").symlink_to(given)
    else:
        shutil.rmtree(root / "val")
        (root / "val").symlink_to(root / "train")
    made = source(root)
    line = describe(Splits(made, None, made), 4)[-1]
    count = 18 if how == "folder" else 1
    images = "image" if count == 1 else "images"
    assert line.startswith(f"WARNING: {count} training {images} also in the test set (equal by")


def flags(root, save):
    return [
        *("--dataset", "folder", "--data_dir", str(root), "--model", "resnet8", "--epochs", "2"),
        *("--image_size", "32", "--batch_size", "6", "--num_workers", "0", "--gpu_id", "cpu"),
        *("--save_dir", str(save)),
    ]


CHANGES = {
    "added": lambda root: picture(7).save(root / "train" / "cat" / "new.png"),
    "test added": lambda root: picture(7).save(root / "val" / "cat" / "new.png"),
    "removed": lambda root: next((root / "train" / "cat").iterdir()).unlink(),
    "replaced": lambda root: picture(7).save(next((root / "train" / "cow").iterdir())),
    "moved": lambda root: os.replace(
        root / "train" / "cat" / "cat_0.JPEG", root / "train" / "cow" / "cat_0.JPEG"
    ),
    "renamed": lambda root: os.replace(
        root / "train" / "cat" / "cat_0.JPEG", root / "train" / "cat" / "zzz.JPEG"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_resumed_on_other_images(tmp_path, capsys, change):
    root = tree(tmp_path / "photos", CLASSES)
    assert cli.run("teacher", flags(root, tmp_path / "save")) == 0
    CHANGES[change](root)
    capsys.readouterr()
    assert cli.run("teacher", [*flags(root, tmp_path / "save"), "--resume"]) == 2
    assert "began with other images or labels" in capsys.readouterr().err


def test_a_copy_of_the_images_resumes(tmp_path, capsys):
    root = tree(tmp_path / "photos", CLASSES)
    assert cli.run("teacher", flags(root, tmp_path / "save")) == 0
    for path in root.rglob("*.JPEG"):
        os.utime(path, (1, 1))
    assert cli.run("teacher", [*flags(root, tmp_path / "save"), "--resume"]) == 0


def test_the_digest_of_images_in_memory_covers_all_of_them():
    made = data.load("digits")
    digest = made.digest()
    assert digest == data.load("digits").digest()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        part = getattr(made, name).clone()
        part.view(-1)[5] = 1 - part.view(-1)[5].clamp(max=1)
        assert replace(made, **{name: part}).digest() != digest


@pytest.mark.parametrize(("accuracy", "warned"), [(8.0, True), (15.0, True), (40.0, False)])
def test_a_teacher_near_chance_is_warned_of(tmp_path, accuracy, warned):
    names = tuple(str(number) for number in range(1, 11))
    made = source(tree(tmp_path / "photos", names, train=1, val=20))
    lines = chance_warnings(accuracy, made)
    assert len(lines) == (2 if warned else 0)
    if warned:
        assert "chance is 10.00 %" in lines[0]
        assert "(1, 10, 2, ...), in natural order they would be 1, 2, 3, ..." in lines[1]


def test_other_orders_are_only_a_reason_where_there_are_some(tmp_path):
    made = source(tree(tmp_path / "photos", CLASSES))
    assert len(chance_warnings(10.0, made)) == 1

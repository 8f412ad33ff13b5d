"""Which folders of a data set are read, by which name, and what is said of the others."""

import os
import shutil
import unicodedata

import pytest
import torch

from distillers import data
from distillers.data import DecodeOptions
from distillers.data.datasets.listing import composed
from distillers.data.held_out import held_out_rows
from distillers.errors import InputError
from tests.data.trees import WNIDS, picture, tree

CLASSES = ("cat", "cow", "dog")


def source(root, name="folder", **settings):
    return data.source_of(name, root, reading=DecodeOptions(**({"image_size": 32} | settings)))


def named(root, train, val):
    tree(root, CLASSES)
    (root / "train").rename(root / "moved")
    (root / "val").rename(root / val)
    (root / "moved").rename(root / train)
    return root


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize(
    ("train", "val"),
    [
        *(("train", "val"), ("Train", "Val"), ("TRAINING", "valid"), ("training", "Validation")),
        *(("train", "TEST"), ("Train", "testing")),
    ],
)
def test_the_parts_have_many_names(tmp_path, name, train, val):
    made = source(named(tmp_path / "photos", train, val), name)
    assert made.class_names == CLASSES
    assert (len(made.train_rows), len(made.test_rows)) == (18, 12)
    held_out = source(tmp_path / "photos", val_fraction=0.2)
    assert (len(held_out.train_rows), len(held_out.test_rows)) == (18, 12)


LONG = {
    "train_set": "test_set",
    "trainset": "valset",
    "Training Images": "Test Images",
    "train2017": "val2017",
    "seg_train": "seg_test",
    "train": "dev",
    "01-trn": "02-tst",
}


@pytest.mark.parametrize("fraction", [0, 0.2])
@pytest.mark.parametrize("train", LONG)
def test_longer_names_are_parts_too_and_printed(tmp_path, capsys, train, fraction):
    root = named(tmp_path / "photos", train, LONG[train])
    made = source(root, val_fraction=fraction)
    assert made.class_names == CLASSES
    assert (len(made.train_rows), len(made.test_rows)) == (18, 12)
    said = capsys.readouterr().err
    assert (
        said == f"{root}: {train}/ has the training images, {LONG[train]}/ has the test images.\n"
    )


def test_classes_may_have_words_of_parts_in_their_names(tmp_path, capsys):
    names = ("crash test", "dev board", "model train", "rail")
    root = tree(tmp_path / "photos", names) / "train"
    assert source(root, val_fraction=0.2).class_names == names
    assert source(root.parent).class_names == names
    assert capsys.readouterr().err == ""
    (root / "model train" / "deep").mkdir()
    with pytest.raises(InputError, match="rename it train if they are the classes"):
        source(root, val_fraction=0.2)


def test_folders_that_look_like_parts_are_warned_of(tmp_path, capsys):
    root = named(tmp_path / "photos", "one", "two")
    assert source(root, val_fraction=0.2).class_names == ("one", "two")
    assert "each has the folders cat, cow, dog. If those are" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_parts_within_each_class_are_refused(tmp_path, fraction):
    for name in CLASSES:
        for part in ("train", "val"):
            (tmp_path / name / part).mkdir(parents=True)
            picture(0).save(tmp_path / name / part / "a.png")
    with pytest.raises(InputError, match=r"cat, cow, dog each have .* move their images to"):
        source(tmp_path, val_fraction=fraction)


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_one_folder_too_many_is_named(tmp_path, fraction):
    root = tree(tmp_path / "photos", CLASSES)
    with pytest.raises(InputError, match=f"did you mean --data_dir {root}"):
        source(tmp_path, val_fraction=fraction)
    (root / "train").rename(tmp_path / "moved")
    (root / "train").mkdir()
    (tmp_path / "moved").rename(root / "train" / "deep")
    with pytest.raises(InputError, match="one folder"):
        source(root, val_fraction=fraction)


def test_what_is_not_read_beside_a_split_is_named(tmp_path, capsys):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "val").rename(root / "more")
    (root / "test").mkdir()
    picture(0).save(root / "test" / "1.png")
    assert len(source(root, val_fraction=0.2).test_rows) == 4
    assert "more/, test/ are not read" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_images_or_archives_without_classes_are_explained(tmp_path, fraction):
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "photos.ZIP").touch()
    with pytest.raises(InputError, match=r"CLASS/image.jpg. Extract photos.ZIP first"):
        source(tmp_path, val_fraction=fraction)


def test_an_archive_within_a_class_is_named(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    for path in (root / "train" / "cow").iterdir():
        path.unlink()
    (root / "train" / "cow" / "cow.tar").touch()
    with pytest.raises(InputError, match=r"class cow in .*its folder holds only cow/cow.tar"):
        source(root)


@pytest.mark.parametrize("target", ["nowhere", "val"])
def test_a_part_that_is_a_dead_link_is_not_passed_over(tmp_path, target):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "val").rename(tmp_path / "away")
    (root / "val").symlink_to(target)
    with pytest.raises(InputError, match="val is a dead symbolic link or a loop; delete it"):
        source(root, val_fraction=0.2)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u202eb", "a\udcff"])
def test_a_class_that_cannot_be_printed_is_refused_before_training(tmp_path, name):
    root = tree(tmp_path / "photos", ("cat", name))
    with pytest.raises(InputError, match="rename it") as caught:
        source(root)
    assert str(caught.value).isprintable()


def test_a_hidden_image_is_named_and_no_resource_of_a_mac(tmp_path, capsys):
    root = tree(tmp_path / "photos", CLASSES)
    for name in ("._cat_0.jpg", ".DS_Store"):
        (root / "train" / "cat" / name).touch()
    source(root)
    assert capsys.readouterr().err == ""
    picture(0).save(root / "train" / "cat" / ".b.PNG")
    source(root)
    assert "1 entries" in (said := capsys.readouterr().err)
    assert "cat/.b.PNG" in said


def test_a_pipe_called_like_an_image_is_no_dead_link(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    os.mkfifo(root / "train" / "cat" / "a.jpg")
    with pytest.raises(InputError, match=r"a.jpg is no file; delete it"):
        source(root)


@pytest.mark.parametrize("more", ["test", "Test", "valid", "unlabelled"])
def test_folders_that_are_not_read_are_named(tmp_path, capsys, more):
    root = tree(tmp_path / "photos", CLASSES)
    tree(tmp_path / "other", CLASSES, val=1)
    (tmp_path / "other" / "val").rename(root / more)
    assert len(source(root).test_rows) == 12
    said = capsys.readouterr().err
    assert f"{more}/ is not read" in said
    assert "val/ has the test images" in said


def test_test_images_without_labels_beside_val_are_not_read(tmp_path, capsys):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "test").mkdir()
    picture(0).save(root / "test" / "1.png")
    assert len(source(root).test_rows) == 12
    assert "test/ is not read" in capsys.readouterr().err


def test_a_val_folder_without_classes_is_refused_by_name(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    for path in list((root / "val").rglob("*.JPEG")):
        path.rename(root / "val" / path.name)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    with pytest.raises(InputError, match="val has no folder per class"):
        source(root)


def test_two_folders_of_training_images_are_refused(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "training" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="train and training, two folders"):
        source(root)


def test_a_folder_of_test_images_alone_is_refused(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "train").rename(tmp_path / "away")
    with pytest.raises(InputError, match="val/ but no folder of training images"):
        source(root, val_fraction=0.2)


@pytest.mark.parametrize("name", ["train", "Test", "valid"])
def test_a_class_may_be_called_like_a_part(tmp_path, capsys, name):
    root = tree(tmp_path / "photos", ("boat", "car", name)) / "train"
    made = source(root, val_fraction=0.2)
    assert set(made.class_names) == {"boat", "car", name}
    assert f"{name} has no folders, so it is a class" in capsys.readouterr().err


@pytest.mark.parametrize("parts", [("Train", "Val"), ("train_images", "test_images")])
def test_parts_without_classes_are_not_taken_for_classes(tmp_path, parts):
    for part in parts:
        (tmp_path / part).mkdir()
        for number in range(4):
            picture(number).save(tmp_path / part / f"{number}.png")
    with pytest.raises(InputError, match="has no folder per class"):
        source(tmp_path, val_fraction=0.2)


def test_a_part_whose_name_has_words_of_both_kinds_is_found_once(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "train").rename(root / "train_val")
    assert len(source(root).train_rows) == 18


SYSTEM = ("@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "@__thumb", ".thumbnails")


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("where", [".", "cow", "cow/a.JPEG"])
def test_folders_of_storage_devices_hold_no_images(tmp_path, capsys, name, where):
    root = tree(tmp_path / "photos", CLASSES)
    for part in ("train", "val"):
        folder = root / part / where.replace("/", "/deep/") / name
        folder.mkdir(parents=True)
        picture(0).save(folder / "thumbnail.jpg")
    made = source(root)
    assert made.class_names == CLASSES
    assert (len(made.train_rows), len(made.test_rows)) == (18, 12)
    assert f"{name}/" in capsys.readouterr().err


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    root = tree(tmp_path / "photos", ("ant", names[0]))
    (root / "val" / names[0]).rename(root / "val" / names[1])
    made = source(root)
    assert made.class_names == ("ant", names[0])
    assert made.test.labels.tolist() == [0] * 4 + [1] * 4


def test_names_are_utf8_in_every_locale():
    assert composed("K\udcc3\udca4se") == composed("Käse") == "Käse"  # as LC_ALL=C reads it


def test_two_folders_with_one_name_are_refused(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    tree(tmp_path / "photos", names)
    with pytest.raises(InputError, match="differ only in their Unicode form"):
        source(tmp_path / "photos")


def test_classes_that_differ_in_case_are_explained(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "val" / "cat").rename(root / "val" / "Cat ")
    with pytest.raises(InputError, match="differ only in upper and lower case, spaces"):
        source(root)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("sizes", [[10, 10] + 10 * [1], [100, 1, 2, 3], [7, 7, 7], [50, 0, 50, 1]])
def test_every_class_keeps_a_training_image(sizes, fraction, seed):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    total = round(fraction * len(labels))
    held_out, kept = held_out_rows(labels, len(sizes), fraction, seed)
    assert len(held_out) == total
    assert sorted([*held_out.tolist(), *kept.tolist()]) == list(range(len(labels)))
    left = torch.bincount(labels[kept], minlength=len(sizes)).tolist()
    assert all(count for count, size in zip(left, sizes, strict=True) if size)


def test_more_than_all_but_one_of_each_class_cannot_be_held_out():
    labels = torch.tensor([0, 0, 0, 1, 2, 3])
    with pytest.raises(InputError, match=r"at most 2 can be held out, --val_fraction 0\.333"):
        held_out_rows(labels, 4, 0.5, 0)
    assert len(held_out_rows(labels, 4, 0.333, 0)[0]) == 2
    with pytest.raises(InputError, match=r"select 0, but both .* as to 0\.17"):
        held_out_rows(labels, 4, 0.01, 0)
    assert len(held_out_rows(labels, 4, 0.17, 0)[0]) == 1


def test_ties_are_broken_by_the_seed():
    labels = torch.arange(10).repeat_interleave(2)
    chosen = {
        tuple(held_out_rows(labels, 10, 0.15, seed)[0].div(2).int().tolist()) for seed in range(5)
    }
    assert len(chosen) > 1


BY_NAME = {"class_names": CLASSES}


@pytest.mark.parametrize("val", ["val", "Test", None])
def test_test_images_alone_are_read_by_class_name(tmp_path, capsys, val):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "train").rename(tmp_path / "away")
    (root / "val" / "cow").rename(tmp_path / "gone")
    if val is None:
        root = root / "val"
    else:
        (root / "val").rename(root / val)
    made = source(root, **BY_NAME)
    assert made.class_names == CLASSES
    assert made.test_labels.tolist() == [0] * 4 + [2] * 4
    assert len(made.train_labels) == 0
    assert "has no image of class cow" in capsys.readouterr().err


def test_test_images_of_some_classes_beside_all_training_images(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    (root / "val" / "cat").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="different classes"):
        source(root)
    assert source(root, **BY_NAME).test_labels.tolist() == [1] * 4 + [2] * 4


def test_folders_that_are_no_class_of_the_network_are_refused(tmp_path):
    root = tree(tmp_path / "photos", ("cat", "horse")) / "val"
    with pytest.raises(InputError, match="no class of the network: horse"):
        source(root, **BY_NAME)


def test_a_whole_data_set_is_read_as_in_training(tmp_path):
    root = tree(tmp_path / "photos", CLASSES)
    made = source(root, **BY_NAME)
    assert (len(made.train_labels), len(made.test_labels)) == (18, 12)
    parts = source(root / "train", val_fraction=0.2, **BY_NAME)
    assert torch.equal(parts.test_rows, source(root / "train", val_fraction=0.2).test_rows)


def test_two_classes_that_are_one_folder_are_refused(tmp_path):
    tree(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part / "twin").symlink_to(tmp_path / part / WNIDS[1])
    with pytest.raises(InputError, match=rf"twin and .*{WNIDS[1]} are one folder by a symbolic"):
        data.source_of("folder", tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_test_images_that_are_training_images_by_links_are_warned_of(whole, tmp_path, capsys):
    tree(tmp_path / "photos", val=0)
    val = tmp_path / "photos" / "val"
    for name in () if whole else WNIDS[1:]:
        (val / name).rmdir()
        (val / name).symlink_to(f"../train/{name}")
    if whole:
        shutil.rmtree(val)
        val.symlink_to("train")
    else:
        picture(1).save(val / WNIDS[0] / "own.png")
    data.source_of("folder", tmp_path / "photos")
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "WARNING" in each]
    assert f"test images of {', '.join(WNIDS if whole else WNIDS[1:])} are training" in line


def test_names_that_are_nearly_one_are_said(tmp_path, capsys):
    tree(tmp_path, classes=("Cat", "cat ", "dog"), train=1, val=1)
    data.source_of("folder", tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "'Cat', 'cat ' are 2 classes, whose names differ only in case, spaces" in line


@pytest.mark.parametrize("where", ["train", "."])
@pytest.mark.parametrize("table", ["labels.csv", "LABELS.CSV"])
def test_labels_in_a_table_are_not_read(where, table, tmp_path):
    (tmp_path / "train").mkdir()
    picture(1).save(tmp_path / "train" / "1.png")
    (tmp_path / where / table).write_text("file,label")
    with pytest.raises(InputError, match=rf"no folder per class.*tables \({table}\) are not"):
        data.source_of("folder", tmp_path)

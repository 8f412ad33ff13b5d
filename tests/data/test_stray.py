"""Folders of images with what else may lie in them."""

import os

import pytest
import torch
from PIL import Image

from distillers import data
from distillers.data import DecodeOptions
from distillers.data.datasets.listing import list_classes
from distillers.data.loaders.decode import read
from distillers.errors import InputError


@pytest.fixture
def photos(tmp_path):
    """Two classes of four images each, without train/ or val/."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (10, 12), (60 * number,) * 3)
            image.save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def test_a_class_that_is_a_dead_link_or_a_loop_is_named(photos):
    link = photos / "c"
    link.symlink_to("/nowhere")
    with pytest.raises(InputError, match="c is a dead symbolic link"):
        list_classes(photos)
    link.unlink()
    link.symlink_to("c")
    with pytest.raises(InputError, match="c is a loop of symbolic links"):
        list_classes(photos)


def test_images_outside_of_every_class_are_reported(photos, capsys):
    (photos / "a" / "0.jpg").rename(photos / "stray.jpg")
    assert len(list_classes(photos).labels) == 7
    assert "1 entries" in (told := capsys.readouterr().err)
    assert "not images of a class and were skipped: stray.jpg" in told


def test_train_alone_is_split_where_a_share_is_asked_for(photos, tmp_path):
    (tmp_path / "whole").mkdir()
    photos.rename(tmp_path / "whole" / "train")
    with pytest.raises(InputError, match=r"neither val/ nor test/.* or add --val_fraction 0.1"):
        data.source_of("folder", tmp_path / "whole", reading=DecodeOptions())
    source = data.source_of("folder", tmp_path / "whole", reading=DecodeOptions(val_fraction=0.25))
    assert (len(source.train_rows), len(source.test_rows)) == (6, 2)


def test_a_name_that_is_no_utf8_is_read(photos):
    strange = os.fsdecode(bytes(photos / "a") + b"/\xff\xe4.jpg")
    os.rename(photos / "a" / "1.jpg", strange)
    assert torch.equal(read(strange), read(str(photos / "b" / "1.jpg")))
    (photos / "a" / "größe.jpg").write_bytes((photos / "b" / "2.jpg").read_bytes())
    assert torch.equal(read(str(photos / "a" / "größe.jpg")), read(str(photos / "b" / "2.jpg")))


def test_other_endings_of_jpeg_are_read(photos):
    for ending in (".jfif", ".JPE"):
        (photos / "a" / f"more{ending}").write_bytes((photos / "b" / "1.jpg").read_bytes())
    assert len(list_classes(photos).labels) == 10

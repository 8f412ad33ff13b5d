"""Augmentation in loaders: the same images for any batch size, process, worker, start and order."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distillers import data
from distillers.config.augmentation import Augmentation
from distillers.config.data import DecodeOptions
from distillers.data.batch import Batch
from distillers.data.datasets.images import ImageSet
from distillers.data.source import BatchLoader
from distillers.distillation.cache.key import cache_key, differences
from distillers.distributed.world import Shard
from distillers.errors import InputError
from tests.data.test_second_view import in_files, in_memory, pixels, root  # noqa: F401, a fixture
from tests.nets import Small

OPTIONS = {
    "aa": Augmentation(aa="rand-m9-mstd0.5-inc1"),
    "augmix": Augmentation(aa="augmix-m5-w2-d1"),
    "jitter": Augmentation(color_jitter=0.4),
    "erasing": Augmentation(reprob=0.5),
    "crops": Augmentation(scale=(0.3, 0.9), ratio=(0.5, 2.0)),
    "flips": Augmentation(hflip=0.3, vflip=0.4),
    "weak": Augmentation(aa="trivial", reprob=0.5, hflip=0.2, weak_teacher=True),
    "all": Augmentation("original", 0.0, 0.3, (0.2, 0.8), (), 0.5, 0.5, 0, True, "trivial"),
}
WEAK = OPTIONS["weak"]


def tensors(batch: Batch) -> list[Tensor]:
    return [each for each in (batch.images, batch.strong, batch.weak) if each is not None]


def by_row(loader: BatchLoader, number: int, start: int = 0) -> dict[int, list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    for batch in loader.epoch(number, start):
        for row, *views in zip(batch.index.tolist(), *tensors(batch), strict=True):
            found[row] = views
    return found


def assert_same(found: dict[int, list[Tensor]], expected: dict[int, list[Tensor]]) -> None:
    for row, views in found.items():
        assert len(views) == len(expected[row])
        assert all(map(torch.equal, views, expected[row])), row


@pytest.mark.parametrize("name", OPTIONS)
def test_images_in_memory_depend_on_seed_and_epoch_alone(name):
    options = OPTIONS[name]
    expected = by_row(in_memory(options), 2)
    plain = by_row(in_memory(Augmentation()), 2)
    changed = [not torch.equal(expected[row][0], plain[row][0]) for row in expected]
    assert sum(changed) > 6
    for world in (2, 3):
        parts = [in_memory(options, batch_size=2, shard=Shard(r, world)) for r in range(world)]
        found = {row: views for part in parts for row, views in by_row(part, 2).items()}
        assert found.keys() == expected.keys()
        assert_same(found, expected)
    assert_same(by_row(in_memory(options), 2, start=2), expected)
    for other in (by_row(in_memory(options), 3), by_row(in_memory(options, seed=4), 2)):
        assert sum(torch.equal(other[row][0], expected[row][0]) for row in expected) < 6


@pytest.mark.parametrize("name", OPTIONS)
def test_images_in_files_depend_on_seed_and_epoch_alone(name, root):  # noqa: F811
    options = OPTIONS[name]
    expected = by_row(in_files(root, options), 2)
    plain = by_row(in_files(root, Augmentation()), 2)
    assert sum(not torch.equal(expected[row][0], plain[row][0]) for row in expected) > 4
    assert_same(by_row(in_files(root, options, batch_size=3), 2), expected)
    assert_same(by_row(in_files(root, options), 2, start=2), expected)
    other = by_row(in_files(root, options), 3)
    assert sum(torch.equal(other[row][0], expected[row][0]) for row in expected) < 6


@pytest.mark.parametrize("views", [3, "all"])
@pytest.mark.parametrize("name", OPTIONS)
def test_fixed_views_are_the_same_in_every_run(name, views):
    options = OPTIONS[name]
    if views == "all" and options.resizes:
        with pytest.raises(InputError, match="with --scale or --ratio, has endlessly many"):
            in_memory(options, views=views)
        return

    def by_view(seed: int) -> dict[int, list[Tensor]]:
        loader, found = in_memory(options, views=views, seed=seed, flip=options.hflip is None), {}
        for number in range(1, 4):
            for batch in loader.epoch(number):
                assert batch.view is not None
                for view, *each in zip(batch.view.tolist(), *tensors(batch), strict=True):
                    found[view] = each
        return found

    one, other = by_view(1), by_view(2)
    shared = one.keys() & other.keys()
    assert len(shared) == 69 if views == 3 else shared
    assert_same({view: one[view] for view in shared}, other)


def test_the_teacher_gets_the_crops_of_the_student_without_the_policy():
    plain = replace(WEAK, aa=None, reprob=0.0)
    pairs = zip(in_memory(WEAK).epoch(1), in_memory(plain).epoch(1), strict=True)
    for batch, without in pairs:
        assert without.weak is None
        assert torch.equal(batch.teacher_images, without.images)
        assert not torch.equal(batch.images, without.images)
        mixed = batch.map_views(lambda view: view.flip(0))
        assert torch.equal(mixed.teacher_images, without.images.flip(0))


def repeated(**changes: Any) -> list[Batch]:
    return list(in_memory(Augmentation(aug_repeats=3), **changes).epoch(2))


def test_repeated_images_follow_each_other_with_other_augmentations(root):  # noqa: F811
    rows = torch.cat([batch.index for batch in repeated()])
    order = torch.cat([batch.index for batch in in_memory(Augmentation()).epoch(2)])
    assert torch.equal(rows, order.repeat_interleave(3)[:23])
    images = torch.cat([batch.images for batch in repeated()])
    assert not torch.equal(images[0], images[1])
    parts = [repeated(batch_size=3, shard=Shard(r, 2)) for r in range(2)]
    for one, *two in zip(repeated(), *parts, strict=True):
        assert torch.equal(torch.cat([each.images for each in two]), one.images)
    for number in (1, 2):
        batches = list(in_files(root, Augmentation(aug_repeats=2), batch_size=18).epoch(number))
        assert torch.equal(batches[0].index[::2], batches[0].index[1::2])
        assert not torch.equal(batches[0].images[::2], batches[0].images[1::2])


def image_set() -> ImageSet:
    images, labels = pixels(12), torch.arange(12) % 3
    return ImageSet(
        *("set", images, labels, images, labels, (0.5,) * 3, (0.2,) * 3, ("a", "b", "c"), True)
    )


def test_a_cache_is_of_what_the_teacher_sees(root):  # noqa: F811
    """Caches of earlier versions stay valid, as nothing is added to the keys of default flags."""
    folder = data.source_of("folder", root, reading=DecodeOptions(image_size=32))
    for source in (image_set(), folder):
        keys = {
            name: cache_key(Small(), "small", source.augmented(options))
            for name, options in OPTIONS.items()
        }
        plain = cache_key(Small(), "small", source)
        unseen = Augmentation(aa="trivial", reprob=0.5, color_jitter=1, weak_teacher=True)
        assert cache_key(Small(), "small", source.augmented(unseen))["data"] == plain["data"]
        assert "data.options" in differences(keys["aa"], plain)
        assert keys["weak"]["data"]["options"] == {"hflip": 0.2}
        assert keys["crops"]["data"]["options"] == {"scale": [0.3, 0.9], "ratio": [0.5, 2.0]}


def test_options_of_the_data_set_survive_a_split():
    train, val = image_set().augmented(WEAK).split(0.25, 0)
    assert val is not None
    assert train.augmentation == WEAK
    loader = train.train_loader(4, seed=0, drop_last=False, device=torch.device("cpu"))
    assert next(loader.epoch(1)).weak is not None
    assert next(val.test_loader(torch.device("cpu")).epoch(1)).weak is None
    assert image_set().augmented(Augmentation(scale=(0.5, 1))).num_crops is None
    assert image_set().augmented(WEAK).num_crops == 81

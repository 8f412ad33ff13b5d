"""A second, strongly augmented view of each image, in memory and in folders."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillers import data
from distillers.config.augmentation import Augmentation, parse_policy
from distillers.config.data import DecodeOptions, SoftLabels
from distillers.data.augment.augmenter import Augmenter
from distillers.data.augment.named import build_policy
from distillers.data.augment.views import POLICY, SECOND
from distillers.data.batch import Batch
from distillers.data.loaders.decode import image_rng, read
from distillers.data.loaders.memory import PAD, Loader
from distillers.data.loaders.mixing import MIX_SEED, SoftLabelLoader, draw_mix, mix_images
from distillers.data.normalization import IMAGENET_MEAN
from distillers.data.source import BatchLoader
from distillers.distributed.world import Shard
from tests.data.trees import tree

CPU = torch.device("cpu")
STRONG = Augmentation(strong_aa="fixmatch")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def pixels(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, 3, 8, 8), generator=generator, dtype=torch.uint8)


def in_memory(augmentation: Augmentation = STRONG, num: int = 23, **changes: Any) -> Loader:
    options: dict[str, Any] = {"batch_size": 6, "seed": 3, "shuffle": True} | changes
    return Loader(
        pixels(num),
        torch.arange(num) % 5,
        mean=MEAN,
        std=STD,
        augment=True,
        augmentation=augmentation,
        **options,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tree(tmp_path_factory.mktemp("data") / "photos")


def in_files(
    root: Path, augmentation: Augmentation = STRONG, workers: int = 0, **changes: Any
) -> BatchLoader:
    reading = DecodeOptions(image_size=32, num_workers=workers)
    options: dict[str, Any] = {"batch_size": 5, "seed": 3, "drop_last": False, "device": CPU}
    source = data.source_of("folder", root, reading=reading)
    return source.augmented(augmentation).train_loader(second_view=True, **(options | changes))


def strong_augmenter(mean: tuple[float, ...]) -> Augmenter:
    policy = build_policy(parse_policy("fixmatch"))
    return Augmenter(policy, mean, seed=3, stream=SECOND + POLICY, device=CPU)


def views(batches: Iterable[Batch]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return both views of each image by its row."""
    found = {}
    for batch in batches:
        assert batch.strong is not None
        assert batch.strong.shape == batch.images.shape
        for row, *both in zip(batch.index.tolist(), batch.images, batch.strong, strict=True):
            found[row] = tuple(both)
    return found


def assert_same(found: dict[int, tuple[Tensor, ...]], expected: dict[int, tuple]) -> None:
    assert found.keys() == expected.keys()
    for row, each in found.items():
        assert all(map(torch.equal, each, expected[row])), row


def test_the_second_view_in_memory_is_a_crop_of_its_own_augmented_image_by_image():
    loader, plain = in_memory(), in_memory(Augmentation())
    augmenter = strong_augmenter(MEAN)
    padded = torch.nn.functional.pad(pixels(23), (PAD,) * 4)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    differ = 0
    for batch, without in zip(loader.epoch(2), plain.epoch(2), strict=True):
        assert torch.equal(batch.images, without.images)
        assert without.strong is None
        for row, strong in zip(batch.index.tolist(), batch.strong, strict=True):
            place = torch.tensor([row]), torch.tensor([2])
            drawn = loader._maker.offsets(*place, 2 * PAD + 1, second=True)
            top, left, mirrored = drawn[0].tolist()
            crop = padded[row, :, top : top + 8, left : left + 8]
            crop = crop.flip(-1) if mirrored else crop
            made = augmenter(crop[None], *place)[0]
            differ += not torch.equal(made, crop)
            torch.testing.assert_close(strong, (made / 255 - mean) / std)
    assert differ == 23


def test_the_second_view_in_files_is_a_crop_of_its_own_augmented_image_by_image(root):
    from torchvision.transforms.v2 import functional as F

    loader, plain = in_files(root), in_files(root, Augmentation())
    augmenter = strong_augmenter(IMAGENET_MEAN)
    for batch, without in zip(loader.epoch(2), plain.epoch(2), strict=True):
        assert torch.equal(batch.images, without.images)
        assert without.strong is None
        for row, strong in zip(batch.index.tolist(), batch.strong, strict=True):
            image, rng = read(loader._images.path(row)), image_rng(3, 2, row)
            loader._images.draw_crop(*image.shape[-2:], rng)  # the first view
            box, is_mirrored = loader._images.draw_crop(*image.shape[-2:], rng)
            crop = F.resized_crop(image, *box, [32, 32], antialias=True)
            crop = crop.flip(-1) if is_mirrored else crop
            made = augmenter(crop[None], torch.tensor([row]), torch.tensor([2]))
            torch.testing.assert_close(strong, loader._maker._normalize(made)[0])


@pytest.mark.parametrize("world", [2, 3])
def test_views_are_the_same_for_any_batch_size_process_and_start(world):
    expected = views(in_memory().epoch(2))
    parts = [in_memory(batch_size=2, shard=Shard(r, world)) for r in range(world)]
    assert_same(views(batch for part in parts for batch in part.epoch(2)), expected)
    late = views(in_memory().epoch(2, start_batch=2))
    assert_same(late, {row: expected[row] for row in late})
    again = views(in_memory().epoch(3))
    assert not any(torch.equal(again[row][1], expected[row][1]) for row in expected)


def test_views_are_the_same_for_any_number_of_workers(root):
    options = replace(STRONG, aa="trivial", reprob=0.5, scale=(0.3, 0.8))
    expected = views(in_files(root, options).epoch(1))
    assert_same(views(in_files(root, options, workers=2).epoch(1)), expected)


@pytest.mark.parametrize("num_views", [2, "all"])
def test_fixed_views_fix_both_whatever_the_seed_of_the_run(num_views):
    def by_view(seed: int) -> dict[int, tuple[Tensor, ...]]:
        loader = in_memory(views=num_views, seed=seed)
        found: dict[int, tuple[Tensor, ...]] = {}
        for number in range(1, 5):
            for batch in loader.epoch(number):
                both = zip(batch.images, batch.strong, strict=True)
                found |= dict(zip(batch.view.tolist(), both, strict=True))
        return found

    one, other = by_view(1), by_view(2)
    shared = one.keys() & other.keys()
    assert len(shared) == 46 if num_views == 2 else shared
    assert_same({v: one[v] for v in shared}, {v: other[v] for v in shared})


def test_both_views_are_mixed_in_the_same_way():
    options = SoftLabels(mixup=0.4, cutmix=1.0)
    plain = in_memory()
    mixed = SoftLabelLoader(plain, options, num_classes=5, seed=3, num_epochs=9)
    for place, (found, before) in enumerate(zip(mixed.epoch(1), plain.epoch(1), strict=True)):
        mix = draw_mix(options, 8, 8, np.random.default_rng([MIX_SEED, 3, 1, place]))
        rows = torch.arange(len(before.labels)) ^ 1
        rows = rows.where(rows < len(rows), torch.arange(len(rows)))
        for name in ("images", "strong"):
            view = getattr(before, name)
            assert torch.equal(getattr(found, name), mix_images(view, view[rows], mix))

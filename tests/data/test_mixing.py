"""Mixup, CutMix and label smoothing against slow derivations and timm."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillers.config.data import SoftLabels
from distillers.data.batch import Batch
from distillers.data.loaders import mixing
from distillers.data.loaders.memory import Loader
from distillers.data.loaders.mixing import Mix, SoftLabelLoader, draw_mix, mix_images, smooth
from distillers.distributed.world import Shard

K = 5
BOTH = SoftLabels(smoothing=0.1, mixup=0.4, cutmix=1.0, mixup_prob=0.8)


def pixels(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num, 3, 8, 8), generator=generator, dtype=torch.uint8)


def loader(
    options: SoftLabels, num: int = 22, batch_size: int = 6, epochs: int = 9, **changes: Any
) -> SoftLabelLoader:
    plain = Loader(
        pixels(num),
        torch.arange(num) % K,
        batch_size=batch_size,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        seed=3,
        augment=True,
        shuffle=True,
        **changes,
    )
    return SoftLabelLoader(plain, options, num_classes=K, seed=3, num_epochs=epochs)


def plain_batches(mixed: SoftLabelLoader, epoch: int) -> list[Batch]:
    return list(mixed._loader.epoch(epoch))


def drawn(options: SoftLabels, count: int = 400) -> list[Mix | None]:
    return [draw_mix(options, 8, 8, np.random.default_rng([1, i])) for i in range(count)]


def slowly_mixed(batch: Batch, mix: Mix | None, smoothing: float) -> tuple[Tensor, Tensor]:
    """Mix pixel by pixel."""
    images = batch.images.clone()
    targets = torch.full((len(images), K), smoothing / K)
    for row, label in enumerate(batch.labels.tolist()):
        other = row + 1 if row % 2 == 0 else row - 1
        other = row if other == len(images) else other
        weight = mix.weight if mix else 1.0
        targets[row, label] += weight * (1 - smoothing)
        targets[row, batch.labels[other]] += (1 - weight) * (1 - smoothing)
        for y in range(8):
            for x in range(8):
                mine, its = batch.images[row, :, y, x], batch.images[other, :, y, x]
                if mix is None:
                    continue
                if mix.box is None:
                    images[row, :, y, x] = mix.weight * mine + (1 - mix.weight) * its
                elif mix.box[0] <= y < mix.box[1] and mix.box[2] <= x < mix.box[3]:
                    images[row, :, y, x] = its
    return images, targets


@pytest.mark.parametrize("num", [22, 23])
def test_every_batch_is_what_a_loop_over_pixels_makes_of_the_same_draws(num: int):
    mixed = loader(BOTH, num)
    seen = set()
    for epoch in range(1, 5):
        pairs = zip(mixed.epoch(epoch), plain_batches(mixed, epoch), strict=True)
        for place, (batch, plain) in enumerate(pairs):
            rng = np.random.default_rng([mixing.MIX_SEED, 3, epoch, place])
            mix = draw_mix(BOTH, 8, 8, rng)
            seen.add(None if mix is None else mix.box is None)
            images, targets = slowly_mixed(plain, mix, 0.1)
            torch.testing.assert_close(batch.images, images)
            torch.testing.assert_close(batch.targets, targets)
            assert torch.equal(batch.labels, plain.labels)
            assert torch.equal(batch.index, plain.index)
    assert seen == {None, True, False}


@pytest.mark.parametrize("box", [None, (1, 5, 2, 8)])
def test_two_images_are_mixed_as_timm_mixes_them(
    box: tuple[int, int, int, int] | None, monkeypatch: pytest.MonkeyPatch
):
    timm = pytest.importorskip("timm.data.mixup")
    weight = 0.3 if box is None else 1 - 4 * 6 / 64
    theirs = timm.Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=K)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (weight, box is not None))
    monkeypatch.setattr(timm, "cutmix_bbox_and_lam", lambda *_, **__: (box, weight))
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([1, 4])
    expected, targets = theirs(images.clone(), labels)
    torch.testing.assert_close(mix_images(images, images.flip(0), Mix(weight, box)), expected)
    mine = smooth(labels, K, 0.1).lerp(smooth(labels.flip(0), K, 0.1), 1 - weight)
    torch.testing.assert_close(mine, targets)


def test_the_weight_is_drawn_from_the_beta_distribution_and_is_the_share_of_the_area():
    mixups = [mix for mix in drawn(SoftLabels(mixup=0.4)) if mix]
    assert all(mix.box is None for mix in mixups)
    variance = 1 / (4 * (2 * 0.4 + 1))
    weights = np.array([mix.weight for mix in mixups])
    assert weights.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / len(weights)))
    assert weights.var() == pytest.approx(variance, rel=0.15)
    for mix in drawn(SoftLabels(cutmix=1.0)):
        assert mix is not None
        assert mix.box is not None
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 8
        assert 0 <= left <= right <= 8
        assert mix.weight == pytest.approx(1 - (bottom - top) * (right - left) / 64)


def test_the_probability_and_the_choice_between_both_hold():
    each = drawn(BOTH, 1000)
    mixed = [mix for mix in each if mix]
    assert len(mixed) / 1000 == pytest.approx(0.8, abs=0.05)
    assert sum(mix.box is None for mix in mixed) / len(mixed) == pytest.approx(0.5, abs=0.06)
    assert not any(drawn(SoftLabels(mixup=1.0, mixup_prob=0.0), 50))


def test_a_resumed_epoch_goes_on_with_the_same_bits():
    whole = list(loader(BOTH).epoch(2))
    rest = list(loader(BOTH).epoch(2, 2))
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.soft_targets(K), b.soft_targets(K))


def test_mixing_ends_after_its_last_epoch_and_goes_on_in_a_warm_up_stage():
    mixed = loader(SoftLabels(mixup=1.0, mixup_off_epoch=2), epochs=4)
    is_mixed = []
    for epoch in range(1, 7):  # the loader numbers the warm-up epochs 5 and 6
        pairs = zip(mixed.epoch(epoch), plain_batches(mixed, epoch), strict=True)
        is_mixed.append(not all(torch.equal(a.images, b.images) for a, b in pairs))
    assert is_mixed == [True, True, False, False, True, True]


@pytest.mark.parametrize(("num", "size", "world"), [(22, 6, 2), (23, 6, 3), (21, 3, 2), (29, 5, 3)])
def test_several_processes_see_the_images_of_one(
    num: int, size: int, world: int, monkeypatch: pytest.MonkeyPatch
):
    one = list(loader(BOTH, num, size * world).epoch(1))
    ranks = [loader(BOTH, num, size, shard=Shard(r, world)) for r in range(world)]
    plain = [plain_batches(each, 1) for each in ranks]
    parts: list[list[Batch]] = []
    for rank, each in enumerate(ranks):
        wanted = iter(range(len(plain[rank])))
        number = [0]

        def gather(x: Tensor, _: tuple[int, ...], number: list[int] = number) -> Tensor:
            batches = [batches[number[0]] for batches in plain]
            return torch.cat([b.images if x.ndim == 4 else b.labels for b in batches])

        def first(_: Tensor, counts: tuple[int, ...], rank: int = rank) -> int:
            return sum(counts[:rank])

        monkeypatch.setattr(mixing, "all_gather_rows", gather)
        monkeypatch.setattr(mixing, "first_row", first)
        monkeypatch.setattr(mixing, "total_rows", lambda _, counts: sum(counts))
        found, batches = [], each.epoch(1)
        for number[0] in wanted:
            found.append(next(batches))
        parts.append(found)
    for number, batch in enumerate(one):
        images = torch.cat([part[number].images for part in parts])
        targets = torch.cat([part[number].soft_targets(K) for part in parts])
        assert torch.equal(images, batch.images)
        assert torch.equal(targets, batch.soft_targets(K))


def test_smoothing_alone_changes_no_image():
    mixed = loader(SoftLabels(smoothing=0.2))
    for batch, plain in zip(mixed.epoch(1), plain_batches(mixed, 1), strict=True):
        assert torch.equal(batch.images, plain.images)
        torch.testing.assert_close(batch.targets, smooth(plain.labels, K, 0.2))
        torch.testing.assert_close(batch.soft_targets(K).sum(1), torch.ones(len(plain.labels)))


def test_hard_labels_are_ones_and_zeros():
    batch = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0]), torch.arange(2))
    assert batch.soft_targets(3).tolist() == [[0, 1, 0], [1, 0, 0]]

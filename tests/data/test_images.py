from dataclasses import replace

import pytest
import torch
from torchvision.transforms.v2.functional import resize

from distillers.data import ImageSet, hold_out
from distillers.errors import InputError

SIZES = (40, 31, 9, 3)


def image_set():
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(SIZES))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return ImageSet(
        name="made up",
        train_images=images.clone(),
        train_labels=labels,
        test_images=images[:5].clone(),
        test_labels=labels[:5],
        mean=(0.5,),
        std=(0.25,),
        class_names=("a", "b", "c", "d"),
        flip=True,
    )


def test_a_held_out_part_is_disjoint_and_complete():
    whole = image_set()
    part = hold_out(whole, 0.1, seed=3)
    assert len(part.rows) == len(part.images) == len(part.labels) == round(0.1 * sum(SIZES))
    together = torch.cat([part.rows, part.train_rows])
    assert sorted(together.tolist()) == list(range(sum(SIZES)))
    assert torch.equal(part.images, whole.train_images[part.rows])
    assert torch.equal(part.labels, whole.train_labels[part.rows])
    assert torch.equal(part.train.train_images, whole.train_images[part.train_rows])
    assert torch.equal(part.train.train_labels, whole.train_labels[part.train_rows])
    assert torch.equal(part.train.test_images, whole.test_images)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 1 / 3, 0.5, 0.9])
def test_every_class_gives_its_share_rounded_down_or_up(fraction):
    counts = torch.bincount(hold_out(image_set(), fraction, seed=0).labels, minlength=4)
    total = round(fraction * sum(SIZES))
    for count, size in zip(counts.tolist(), SIZES, strict=True):
        assert abs(count - size * total / sum(SIZES)) < 1


def test_the_split_is_a_pure_function_of_the_seed():
    once = hold_out(image_set(), 0.3, seed=5)
    torch.manual_seed(1)
    assert torch.equal(hold_out(image_set(), 0.3, seed=5).rows, once.rows)
    assert not torch.equal(hold_out(image_set(), 0.3, seed=6).rows, once.rows)


def test_nothing_held_out_leaves_everything():
    part = hold_out(image_set(), 0, seed=0)
    assert len(part.images) == len(part.rows) == 0
    assert len(part.train.train_images) == sum(SIZES)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan"), 1e-6, 0.9999])
def test_fractions_that_leave_a_part_empty_are_refused(fraction):
    with pytest.raises(InputError, match=r"must be in \[0, 1\)|at least one"):
        hold_out(image_set(), fraction, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": torch.tensor([0, 1, 2, 3, 4])}, "must be in 0 to 3"),
        ({"test_labels": torch.tensor([0, 1, 2, 3, -1])}, "must be in 0 to 3"),
        ({"test_labels": torch.tensor([0, 1])}, "5 images but 2 labels"),
        ({"test_labels": torch.zeros(5)}, "int64"),
        ({"test_images": torch.zeros(5, 1, 2, 2)}, "uint8"),
        ({"test_images": torch.zeros(5, 2, 2, 2, dtype=torch.uint8)}, "1 or 3"),
        ({"test_images": torch.zeros(5, 1, 3, 3, dtype=torch.uint8)}, "one shape"),
        ({"mean": (0.5, 0.5, 0.5)}, "1 channels"),
        ({"std": (0.0,)}, "positive"),
        (
            {
                "test_images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8),
                "test_labels": torch.zeros(0, dtype=torch.int64),
            },
            "no images",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(image_set(), **change)


@pytest.mark.parametrize("side", [5, 12, 31])
def test_images_are_resized_as_torchvision_does(side):
    generator = torch.Generator().manual_seed(side)
    pixels = torch.randint(256, (7, 3, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.arange(7) % 4
    made = replace(
        image_set(),
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:2],
        test_labels=labels[:2],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    ).resized(side)
    assert made.image_size == side
    expected = resize(pixels, [side, side], antialias=True).int()
    assert (made.train_images.int() - expected).abs().max() <= 1  # they round in between
    assert torch.equal(made.train_images[:2], made.test_images)


def test_training_images_come_as_they_are():
    whole, device = image_set(), torch.device("cpu")
    batches = list(whole.train_eval_loader(device).epoch(1))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), whole.train_labels)
    seen = torch.cat([batch.images for batch in batches])
    expected = (whole.train_images / 255 - 0.5) / 0.25
    torch.testing.assert_close(seen, expected.expand(-1, 3, -1, -1))

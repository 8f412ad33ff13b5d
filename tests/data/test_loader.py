import pytest
import torch

from distillers.data import Batch, Loader
from distillers.data.loaders import memory as module
from distillers.distributed.world import Shard
from distillers.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def data(num=50, channels=3, height=8, width=6):
    rng = torch.Generator().manual_seed(num)
    images = torch.randint(0, 256, (num, channels, height, width), generator=rng)
    return images.to(torch.uint8), torch.arange(num) % 7


def loader(num=50, channels=3, **options):
    given = {"batch_size": 8, "mean": MEAN[:channels], "std": STD[:channels]} | options
    return Loader(*data(num, channels), **given)


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


def order(batches):
    return [row for batch in batches for row in batch.index.tolist()]


def expected_crop(image, top, left, mirrored):
    """The slow way: pad, cut, flip, one image after the other, in plain lists."""
    channels, height, width = image.shape
    rows = []
    for channel in range(channels):
        for y in range(top - 4, top - 4 + height):
            for x in range(left - 4, left - 4 + width):
                inside = 0 <= y < height and 0 <= x < width
                rows.append(int(image[channel, y, x]) if inside else 0)
    crop = torch.tensor(rows).view(channels, height, width)
    return crop.flip(2) if mirrored else crop


@pytest.mark.parametrize("flip", [True, False])
def test_every_augmented_image_is_one_of_its_crops(flip):
    images, _ = data(num=12)
    batches = list(loader(num=12, augment=True, flip=flip, shuffle=True, batch_size=5).epoch(3))
    one = loader(num=12, augment=True, flip=flip, shuffle=True)
    plan = one._plan(one._order(3))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    place = 0
    for batch in batches:
        for image, row in zip(batch.images, batch.index, strict=True):
            top, left, mirrored = plan.drawn[place].tolist()
            crop = expected_crop(images[row], top, left, mirrored and flip)
            torch.testing.assert_close(image, (crop / 255 - mean) / std, rtol=0, atol=2e-6)
            place += 1
    assert place == 12


def test_all_81_crops_and_both_mirrorings_are_drawn_evenly():
    one = loader(num=20000, augment=True)
    plan = one._plan(one._order(1))
    cells = torch.bincount(plan.drawn @ torch.tensor([18, 2, 1]), minlength=162)
    assert len(cells) == 162
    assert float((cells - 20000 / 162).square().sum() / (20000 / 162)) < 230  # chi2, p = 0.0003


def test_order_and_crops_depend_on_seed_and_epoch_and_on_nothing_else():
    kept = {"augment": True, "shuffle": True}
    once = list(loader(seed=1, **kept).epoch(4))
    torch.manual_seed(99)
    other = loader(seed=1, **kept)
    list(other.epoch(1))
    abandoned = other.epoch(4)
    next(abandoned)
    assert same(list(other.epoch(4)), once)
    larger = torch.cat([batch.images for batch in loader(seed=1, batch_size=25, **kept).epoch(4)])
    assert torch.equal(larger, torch.cat([batch.images for batch in once]))
    assert order(loader(seed=1, **kept).epoch(5)) != order(once)
    assert order(loader(seed=2, **kept).epoch(4)) != order(once)
    assert order(loader(seed=11, **kept).epoch(1)) != order(loader(seed=1, **kept).epoch(11))


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(loader(augment=True, shuffle=True).epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_negative_and_huge_seeds_work():
    orders = [order(loader(seed=seed, shuffle=True).epoch(1)) for seed in (-1, 1, 2**80)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_each_image_comes_exactly_once_with_its_own_label(batch_size):
    _, labels = data()
    one = loader(batch_size=batch_size, shuffle=True)
    batches = list(one.epoch(1))
    assert sorted(order(batches)) == list(range(50))
    assert all(torch.equal(batch.labels, labels[batch.index]) for batch in batches)
    assert len(batches) == len(one) == -(-50 // batch_size)
    assert one.num_images == 50


def test_without_shuffling_the_order_is_that_of_the_rows():
    assert order(loader().epoch(1)) == order(loader().epoch(2)) == list(range(50))


def test_drop_last_leaves_out_only_what_does_not_fill_a_batch():
    one = loader(batch_size=8, shuffle=True, drop_last=True)
    batches = list(one.epoch(1))
    assert [len(batch.index) for batch in batches] == [8] * 6
    assert len(one) == 6
    assert one.num_images == 48
    assert order(batches) == order(loader(batch_size=8, shuffle=True).epoch(1))[:48]


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_an_epoch_goes_on_in_its_middle_bit_for_bit(start):
    one = loader(augment=True, shuffle=True)
    assert same(list(one.epoch(2, start_batch=start)), list(one.epoch(2))[start:])


@pytest.mark.parametrize("chunk", [1, 16, 17])
def test_how_many_images_are_made_at_once_changes_nothing(monkeypatch, chunk):
    options = {"augment": True, "shuffle": True, "channels_last": True}
    whole = list(loader(**options).epoch(2))
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert same(list(loader(**options).epoch(2)), whole)
    assert same(list(loader(**options).epoch(2, start_batch=3)), whole[3:])
    ours = list(loader(**options).epoch(2))
    assert all(x.images.is_contiguous(memory_format=torch.channels_last) for x in ours)


def test_normalised_numbers():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    one = Loader(images, torch.zeros(1, dtype=torch.int64), batch_size=1, mean=MEAN, std=STD)
    (batch,) = one.epoch(1)
    assert isinstance(batch, Batch)
    expected = torch.tensor([-0.5 / 0.2, (0.2 - 0.4) / 0.25, 0.7 / 0.3])
    torch.testing.assert_close(batch.images.flatten(), expected, rtol=0, atol=1e-6)
    assert batch.images.dtype == torch.float32


def test_grey_images_come_out_with_three_equal_channels():
    (batch,) = loader(num=4, channels=1, augment=True).epoch(1)
    assert batch.images.shape == (4, 3, 8, 6)
    assert torch.equal(batch.images[:, 0], batch.images[:, 1])
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])
    assert batch.images.is_contiguous()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_memory_format_changes_nothing_else(channels):
    (plain,) = loader(num=8, channels=channels, augment=True).epoch(1)
    (other,) = loader(num=8, channels=channels, augment=True, channels_last=True).epoch(1)
    assert other.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(other.images, plain.images)


def test_batches_share_no_memory_with_the_data():
    images, labels = data(num=8)
    kept = images.clone(), labels.clone()
    one = Loader(images, labels, batch_size=8, mean=MEAN, std=STD)
    first = next(one.epoch(1))
    copy = [x.clone() for x in first]
    for x in first:
        x.zero_()
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    assert all(torch.equal(x, y) for x, y in zip(next(one.epoch(1)), copy, strict=True))


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("num", [1, 5, 48, 50])
def test_processes_together_score_each_image_once(num, world_size):
    parts = [
        order(loader(num=num, batch_size=4, shard=Shard(rank, world_size)).epoch(1))
        for rank in range(world_size)
    ]
    assert sorted(row for part in parts for row in part) == list(range(num))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_processes_together_train_as_one_with_larger_batches():
    kept = {"augment": True, "shuffle": True, "drop_last": True}
    ranks = [list(loader(batch_size=8, shard=Shard(rank, 3), **kept).epoch(2)) for rank in range(3)]
    whole = list(loader(batch_size=24, **kept).epoch(2))
    assert len(whole) == len(ranks[0]) == 2
    joined = [
        Batch(*(torch.cat(x) for x in zip(*parts, strict=True)))
        for parts in zip(*ranks, strict=True)
    ]
    assert same(joined, whole)
    assert all(batch.rows_per_rank == (8, 8, 8) for part in ranks for batch in part)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num", [48, 51, 53])
def test_a_batch_tells_how_many_images_every_process_has(num, world_size):
    ranks = [
        list(loader(num, batch_size=4, shard=Shard(r, world_size), shuffle=True).epoch(1))
        for r in range(world_size)
    ]
    for batches in zip(*ranks, strict=True):
        lengths = tuple(len(batch.labels) for batch in batches)
        assert all(batch.rows_per_rank == lengths for batch in batches)
    one = loader(num, shard=Shard(1, world_size), batch_size=4, shuffle=True)
    last = list(one.epoch(1, start_batch=len(one) - 1))
    assert last[0].rows_per_rank == ranks[1][-1].rows_per_rank


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num", [3, 8, 21])
def test_whole_batches_are_those_of_one_process(num, world_size):
    whole = list(loader(num).epoch(1))
    shards = [Shard(rank, world_size) for rank in range(world_size)]
    ranks = [list(loader(num, shard=each, whole_batches=True).epoch(1)) for each in shards]
    for number, batch in enumerate(whole):
        assert same([ranks[number % world_size][number // world_size]], [batch])
    assert sum(map(len, ranks)) == len(whole)
    assert not any(batch.rows_per_rank for part in ranks for batch in part)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"batch_size": 64, "drop_last": True}, "--batch_size 50 or less, or --protocol crd"),
        ({"mean": (0.5,)}, "one number for each of the 3 channels"),
        ({"std": (0.1, 0.0, 0.1)}, "each std must be positive"),
        ({"shard": Shard(2, 2)}, "rank is 2 of 2"),
        ({"num": 49, "shuffle": True, "shard": Shard(0, 2)}, "wait forever"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        loader(**options)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0).long(), "no images"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3).long(), "2 images but 3"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2).long(), "uint8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2), "int64"),
    ],
)
def test_data_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(InputError, match=message):
        Loader(images, labels, batch_size=1, mean=MEAN, std=STD)


def test_epochs_count_from_one_and_batches_from_none():
    with pytest.raises(InputError, match="epochs count from 1"):
        loader().epoch(0)
    with pytest.raises(InputError, match="in 0 to 7"):
        loader().epoch(1, start_batch=8)
    assert list(loader().epoch(1, start_batch=7)) == []

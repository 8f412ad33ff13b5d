import pytest
import torch
from PIL import Image

from distillers import data
from distillers.data import DecodeOptions, Loader
from distillers.data.loaders.memory import PAD
from distillers.data.loaders.views import view_crops
from distillers.distributed.world import Shard
from distillers.errors import InputError
from tests.data.trees import tree

CPU = torch.device("cpu")
NUM = 50


def loader(num=NUM, **options):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, 8, 6), generator=rng).to(torch.uint8)
    given = {"batch_size": 8, "mean": (0.5,) * 3, "std": (0.2,) * 3, "augment": True}
    given |= {"shuffle": True, "views": 4, "seed": 1}
    return Loader(images, torch.arange(num) % 7, **(given | options))


@pytest.fixture
def root(tmp_path):
    return tree(tmp_path / "photos")


def photos(root, seed=1, views=3, batch_size=5, shard=Shard(), shuffle=True, **settings):
    made = data.source_of("folder", root, reading=DecodeOptions(image_size=32, **settings))
    return made.train_loader(
        batch_size, seed=seed, drop_last=False, device=CPU, shard=shard, views=views,
        shuffle=shuffle,
    )  # fmt: skip


def seen(loader, epochs):
    """Number of the view -> every image that was shown under it."""
    found: dict[int, list[torch.Tensor]] = {}
    for number in epochs:
        for batch in loader.epoch(number):
            assert torch.equal(batch.view % loader.num_images, batch.index)
            for view, image in zip(batch.view.tolist(), batch.images, strict=True):
                found.setdefault(view, []).append(image)
    return found


def all_same(images):
    return all(torch.equal(image, images[0]) for image in images)


def test_all_views_are_today_s_images_in_today_s_order():
    today = list(loader(views=None).epoch(3))
    told = list(loader(views="all").epoch(3))
    for a, b in zip(today, told, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert a.view is None
        assert b.view.device == CPU


@pytest.mark.parametrize("flip", [True, False])
def test_a_view_is_one_picture_for_every_seed_epoch_and_number_of_views(flip):
    """The number alone decides on the pixels, also between V = 1, 4 and all."""
    whole = (2 * PAD + 1) ** 2 * (2 if flip else 1)
    found = seen(loader(num=6, flip=flip, views=whole, shuffle=False), range(1, whole + 1))
    assert sorted(found) == list(range(6 * whole))
    for options in ({"views": 1}, {"views": 4, "seed": 2}, {"views": 4}, {"views": "all"}):
        again = seen(loader(num=6, flip=flip, **options), range(1, 9))
        for view, images in again.items():
            assert all_same([*images, *found[view]]), (options, view)
    pictures = {tuple(images[0].flatten().tolist()) for images in found.values()}
    assert len(pictures) > 0.9 * 6 * whole  # few crops of noise look alike


def test_an_image_goes_through_its_views_in_turn():
    found = [{} for _ in range(8)]
    for number, views in enumerate(found, start=1):
        for batch in loader().epoch(number):
            views |= dict(zip(batch.index.tolist(), (batch.view // NUM).tolist(), strict=True))
    for row in range(NUM):
        shown = [views[row] for views in found]
        assert sorted(shown[:4]) == [0, 1, 2, 3]
        assert shown[4:] == shown[:4]
    firsts = [found[0][row] for row in range(NUM)]
    assert all(firsts.count(view) > 3 for view in range(4))  # images begin at different ones
    other = {}
    for batch in loader(seed=2).epoch(1):
        other |= dict(zip(batch.index.tolist(), (batch.view // NUM).tolist(), strict=True))
    assert other != found[0]


def test_the_order_of_the_images_is_that_of_the_seed():
    for views in (1, 4, "all"):
        ours = [batch.index.tolist() for batch in loader(views=views).epoch(2)]
        assert ours == [batch.index.tolist() for batch in loader(views=None).epoch(2)]


def test_unshuffled_epoch_e_shows_view_e_of_every_image():
    one = loader(shuffle=False)
    for number in (1, 2, 4):
        views = torch.cat([batch.view for batch in one.epoch(number)])
        assert views.tolist() == list(range((number - 1) * NUM, number * NUM))


def test_processes_together_show_what_one_does():
    whole = list(loader(batch_size=16).epoch(2))
    ranks = [list(loader(shard=Shard(rank, 2)).epoch(2)) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([part.view for part in parts]), batch.view)
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


def test_an_epoch_goes_on_in_its_middle():
    whole = list(loader().epoch(2))
    for a, b in zip(loader().epoch(2, start_batch=3), whole[3:], strict=True):
        assert torch.equal(a.view, b.view)
        assert torch.equal(a.images, b.images)


def test_the_first_views_are_crops_drawn_without_putting_back():
    orders = view_crops(3000, 162).long()
    assert all(len(set(order)) == 162 for order in orders[:50].tolist())
    for view in (0, 5, 161):
        counted = torch.bincount(orders[:, view], minlength=162)
        assert float((counted - 3000 / 162).square().sum() / (3000 / 162)) < 230  # chi2, p = 3e-4
    assert torch.equal(view_crops(7, 162), orders[:7].to(torch.uint8))  # no other image enters


def test_folders_have_views_too(root):
    found = seen(photos(root, shuffle=False), range(1, 4))
    assert sorted(found) == list(range(3 * 18))
    settings = ({"views": 1}, {"views": 2, "seed": 2}, {"num_workers": 2})
    for options in settings:
        for view, images in seen(photos(root, **options), range(1, 4)).items():
            assert all_same([*images, *found[view]]), (options, view)
    pictures = {tuple(images[0].flatten().tolist()) for images in found.values()}
    assert len(pictures) == 3 * 18
    whole = list(photos(root).epoch(2))
    for a, b in zip(photos(root).epoch(2, start_batch=2), whole[2:], strict=True):
        assert torch.equal(a.view, b.view)
        assert torch.equal(a.images, b.images)
    today = list(photos(root, views=None).epoch(2))
    assert [b.index.tolist() for b in today] == [b.index.tolist() for b in whole]
    assert today[0].view is None


def test_what_replaces_a_bad_image_is_a_view_of_its_own(root):
    bad = sorted((root / "train").rglob("*.JPEG"))[4]
    kept = Image.open(bad).copy()
    found = seen(photos(root, shuffle=False), range(1, 4))
    bad.write_bytes(b"no image")
    again = seen(photos(root, on_bad_image="skip", shuffle=False), range(1, 4))
    kept.save(bad)
    assert 4 not in {view % 18 for view in again}
    assert sum(map(len, again.values())) == 3 * 18
    for view, images in again.items():
        assert all_same([*images, *found[view]])


@pytest.mark.parametrize("views", [0, -1, 163])
def test_a_number_of_views_that_there_cannot_be_is_refused(views):
    with pytest.raises(InputError, match=f"--views is {views}; it must be 1 to 162, or all"):
        loader(views=views)


def test_all_views_of_a_file_are_refused(root):
    with pytest.raises(InputError, match="as in --views 4"):
        photos(root, views="all")
    with pytest.raises(InputError, match="must be at least 1"):
        photos(root, views=0)

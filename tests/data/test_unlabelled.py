"""Training images without labels: their order, where they come from, copies of test images."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from distillers import data
from distillers.config.data import DecodeOptions, LabelOptions
from distillers.data.copies import copies_in_other_classes, copies_of_test_images
from distillers.data.label_mix import LabelMix
from distillers.data.loaders.memory import Loader
from distillers.data.unlabelled import apply_label_options, with_few_labels
from distillers.distributed.world import Shard
from distillers.errors import InputError

LABELS = torch.where(torch.arange(53) % 5 == 0, torch.arange(53) % 3, -1)  # 11 have labels


def write_tree(root, names, side=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (side, side, 3), generator=rng)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)


def folder_source(tmp_path, **options):
    train = [f"{c}/{n}.png" for c in "ab" for n in range(6)]
    write_tree(tmp_path / "set" / "train", train)
    write_tree(tmp_path / "set" / "val", ["a/0.png", "b/0.png"], seed=1)
    return folder_of(tmp_path, **options)


def folder_of(tmp_path, **options):
    reading = DecodeOptions(image_size=8, **options)
    return data.source_of("folder", tmp_path / "set", reading=reading)


def loader(labels=LABELS, **options):
    images = torch.randint(0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8)
    given = {"batch_size": 8, "mean": (0.5,) * 3, "std": (0.2,) * 3, "seed": 3, "shuffle": True}
    return Loader(images, labels, **(given | options))


def test_without_a_share_each_image_comes_once_an_epoch():
    for number in (1, 2, 7):
        rows, _, turns = LabelMix(LABELS, None, seed=3).order(number)
        assert sorted(rows.tolist()) == list(range(53))
        assert turns.unique().tolist() == [number]
    assert not torch.equal(LabelMix(LABELS, None, 3).order(1)[0], rows)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9])
def test_every_batch_has_the_share_of_unlabelled_images(share):
    rows = torch.cat([LabelMix(LABELS, share, seed=3).order(n).rows for n in range(1, 5)])
    known = (LABELS[rows] >= 0).double()
    assert len(rows) == 4 * 53
    for start in range(len(rows) - 16):
        assert abs(float(known[start : start + 16].sum()) - 16 * (1 - share)) <= 4
    assert abs(float(known.mean()) - (1 - share)) < 0.02


def test_a_kind_is_repeated_in_whole_passes_over_the_epochs():
    mix = LabelMix(LABELS, 0.5, seed=3)
    orders = [mix.order(number) for number in range(1, 6)]
    rows = torch.cat([order.rows for order in orders])
    turns = torch.cat([order.turns for order in orders])
    for has_label in (True, False):
        mine = (LABELS >= 0) == has_label
        chosen = mine[rows]
        passes = rows[chosen].split(int(mine.sum()))
        for turn, each in enumerate(passes[:-1], start=1):
            assert sorted(each.tolist()) == mine.nonzero().flatten().tolist()
            seen = turns[chosen].split(int(mine.sum()))[turn - 1]
            assert seen.unique().tolist() == [turn]


def test_neighbors_are_of_one_kind():
    known = LABELS[LabelMix(LABELS, 0.5, seed=1).order(1).rows] >= 0
    pairs = known[: len(known) // 2 * 2].view(-1, 2)
    assert int((pairs[:, 0] != pairs[:, 1]).sum()) <= 2


def test_a_batch_says_which_of_its_images_have_labels():
    for batch in loader().epoch(2):
        assert batch.labelled is not None
        assert torch.equal(batch.labelled, (LABELS[batch.index] >= 0).nonzero().flatten())
        assert batch.num_labelled == len(batch.labelled)
    assert next(iter(loader(LABELS.clamp(min=0)).epoch(1))).labelled is None


@pytest.mark.parametrize("share", [None, 0.6])
@pytest.mark.parametrize("views", [None, 3, "all"])
def test_the_batches_of_several_processes_are_those_of_one(share, views):
    options = {"unlabelled_share": share, "views": views, "augment": True}
    torch.manual_seed(0)
    whole = list(loader(**options, batch_size=12).epoch(2))
    torch.manual_seed(0)
    seed = torch.get_rng_state()
    parts = []
    for rank in range(3):
        torch.set_rng_state(seed)
        parts.append(list(loader(**options, batch_size=4, shard=Shard(rank, 3)).epoch(2)))
    for place, batch in enumerate(whole):
        mine = [part[place] for part in parts]
        assert torch.equal(torch.cat([each.images for each in mine]), batch.images)
        assert torch.equal(torch.cat([each.index for each in mine]), batch.index)
        counts = tuple(each.num_labelled for each in mine)
        assert all(each.labelled_per_rank == counts for each in mine)


def test_a_share_needs_both_kinds():
    for labels, why in ((LABELS.clamp(min=0), "every image has"), (LABELS * 0 - 1, "no image has")):
        with pytest.raises(InputError, match=why):
            LabelMix(labels, 0.5, seed=0)


@pytest.mark.parametrize("rest", [False, True])
def test_few_labels_of_each_class(rest):
    source = data.source_of("digits")
    few = with_few_labels(source, 3, seed=5, keep_rest=rest)
    labels = few.train_labels[few.train_labels >= 0]
    assert labels.bincount().tolist() == [3] * 10
    assert len(few.train_labels) == (len(source.train_labels) if rest else 30)
    if rest:
        known = few.train_labels >= 0
        assert torch.equal(few.train_labels[known], source.train_labels[known])
        more = with_few_labels(source, 5, seed=5, keep_rest=True)
        assert bool((more.train_labels[known] >= 0).all())  # nested
        other = with_few_labels(source, 3, seed=6, keep_rest=True)
        assert not torch.equal(few.train_labels, other.train_labels)
    with pytest.raises(InputError, match=r"of training images of class 0, 2, 8 is 128; it may be"):
        with_few_labels(source, 1000, seed=5, keep_rest=rest)


def test_validation_images_are_held_out_of_the_labelled_ones():
    few = with_few_labels(data.source_of("digits"), 10, seed=0, keep_rest=True)
    train, val = few.split(0.2, seed=1)
    assert val is not None
    assert val.test_labels.bincount().tolist() == [2] * 10
    assert int((train.train_labels >= 0).sum()) == 80
    assert len(train.train_labels) == len(few.train_labels) - 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_images_joins_a_data_set_of_files(workers, tmp_path):
    source = folder_source(tmp_path, num_workers=workers)
    write_tree(tmp_path / "more", ["x.png", "deep/er/y.png", "deep/z.jpg.png"], seed=2)
    options = LabelOptions(unlabelled=str(tmp_path / "more"), share=0.5)
    mixed = apply_label_options(source, options, "error")
    assert mixed.train_labels.tolist() == [0] * 6 + [1] * 6 + [-1] * 3
    seen = []
    kept = {"seed": 1, "drop_last": False, "device": torch.device("cpu")}
    for batch in mixed.train_loader(4, **kept).epoch(1):
        assert batch.images.shape[1:] == (3, 8, 8)
        assert torch.equal(batch.labels, mixed.train_labels[batch.index])
        assert batch.num_labelled == 2
        seen += batch.index.tolist()
        break
    # an unlabelled image is seen several times in an epoch, each time by another crop
    rows = torch.cat([b.index for b in mixed.train_loader(15, **kept).epoch(1)])
    images = torch.cat([b.images for b in mixed.train_loader(15, **kept).epoch(1)])
    twice = images[rows == 12]
    assert len(twice) >= 2
    assert not torch.equal(twice[0], twice[1])


def test_a_bad_unlabelled_image_is_replaced_by_an_unlabelled_one(tmp_path):
    source = folder_source(tmp_path, on_bad_image="skip")
    write_tree(tmp_path / "more", [f"{n}.png" for n in range(4)], seed=2)
    (tmp_path / "more" / "1.png").write_bytes(b"no image")
    mixed = apply_label_options(source, LabelOptions(unlabelled=str(tmp_path / "more")), "skip")
    found = mixed.train_loader(4, seed=0, drop_last=False, device=torch.device("cpu"))
    batches = list(found.epoch(1))
    assert sum(batch.num_labelled for batch in batches) == 12
    assert 13 not in torch.cat([batch.index for batch in batches])


@pytest.mark.parametrize("name", ["digits", "cifar"])
def test_a_folder_of_images_joins_a_data_set_in_memory(name, tmp_path):
    source = data.source_of("digits")
    source = source.in_color() if name == "cifar" else source
    write_tree(tmp_path, ["a.png", "b/c.png"], side=8)
    write_tree(tmp_path, ["wide/d.png"], side=20)
    mixed = apply_label_options(source, LabelOptions(unlabelled=str(tmp_path)), "error")
    assert len(mixed.train_images) == len(source.train_images) + 3
    assert mixed.train_labels[-3:].tolist() == [-1] * 3
    assert mixed.fingerprint()["pixels"] != source.fingerprint()["pixels"]
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bad\.png.*on_bad_image skip"):
        apply_label_options(source, LabelOptions(unlabelled=str(tmp_path)), "error")
    skipped = apply_label_options(source, LabelOptions(unlabelled=str(tmp_path)), "skip")
    assert torch.equal(skipped.train_images, mixed.train_images)


def test_copies_of_test_images_are_found_by_their_content(tmp_path):
    source = folder_source(tmp_path)
    write_tree(tmp_path / "more", ["x.png", "y.png"], seed=2)
    copied = tmp_path / "set" / "val" / "a" / "0.png"
    (tmp_path / "more" / "renamed.png").write_bytes(copied.read_bytes())
    mixed = apply_label_options(source, LabelOptions(unlabelled=str(tmp_path / "more")), "error")
    (found,) = copies_of_test_images(mixed, source)
    assert found.endswith("renamed.png")
    digits = data.source_of("digits")
    images = torch.cat([digits.train_images, digits.test_images[4:5]])
    labels = torch.cat([digits.train_labels, torch.tensor([-1])])
    leaky = replace(digits, train_images=images, train_labels=labels)
    assert copies_of_test_images(leaky, digits) == [f"image {len(digits.train_images)}"]
    assert copies_of_test_images(digits, digits) == []


def test_copies_in_other_classes_are_found_by_their_content(tmp_path):
    source = folder_source(tmp_path)
    assert copies_in_other_classes(source) == []
    first = tmp_path / "set" / "train" / "a" / "0.png"
    first.with_name("copy.png").write_bytes(first.read_bytes())  # in its own class: no conflict
    assert copies_in_other_classes(folder_of(tmp_path)) == []
    (tmp_path / "set" / "train" / "b" / "other.png").write_bytes(first.read_bytes())
    same_size = bytearray(first.read_bytes())
    same_size[-1] ^= 1
    (tmp_path / "set" / "train" / "b" / "same_size.png").write_bytes(same_size)
    source = folder_of(tmp_path)
    assert copies_in_other_classes(source) == ["a/0.png = a/copy.png = b/other.png"]
    train_rows = source.train_rows[: len(source.train_rows) - 2]  # without those of class b
    assert copies_in_other_classes(replace(source, train_rows=train_rows)) == []


def test_no_label_and_no_other_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="--labels_per_class 0 leaves no training image"):
        apply_label_options(data.source_of("digits"), LabelOptions(per_class=0), "error")


@pytest.mark.parametrize("per_class", [0, 3])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_few_labels_beside_a_folder(tmp_path, per_class, kind):
    write_tree(tmp_path / "more", ["x.png", "y.png"], seed=2)
    source = data.source_of("digits") if kind == "memory" else folder_source(tmp_path)
    options = LabelOptions(per_class=min(per_class, int(source.train_labels.bincount().min())))
    mixed = replace(options, unlabelled=str(tmp_path / "more"))
    found = apply_label_options(source, mixed, "error").train_labels
    few = [] if per_class == 0 else apply_label_options(source, options, "error").train_labels
    assert found.tolist() == [*few, -1, -1]


def test_what_cannot_be_used_is_refused(tmp_path):
    source = data.source_of("digits")
    for folder, why in ((tmp_path / "no", "there is no folder"), (tmp_path, "has no image")):
        with pytest.raises(InputError, match=why):
            apply_label_options(source, LabelOptions(unlabelled=str(folder)), "error")


def test_runs_with_other_labels_share_the_fingerprint_of_a_cache():
    source = data.source_of("digits")
    one, other = (with_few_labels(source, 3, seed, keep_rest=True) for seed in (1, 2))
    assert one.fingerprint() == other.fingerprint()
    assert one.digest() != other.digest()

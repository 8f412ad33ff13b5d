"""Packs of soft labels: read without the teacher, in any order, refused where they do not fit."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save

from distillers.cli import main as cli
from distillers.config.data import DecodeOptions
from distillers.config.run_files import dump_json, load_json
from distillers.data import source_of
from distillers.data.image_hash import image_hashes
from distillers.distillation.cache.fill import fill_cache
from distillers.distillation.cache.loader import CachedTeacherLoader
from distillers.distillation.cache.pack import Pack, is_pack
from distillers.distillation.cache.pack_files import MANIFEST
from distillers.distillation.cache.pack_format import (
    decode_embeddings,
    decode_logits,
    encode_embeddings,
    encode_logits,
)
from distillers.distillation.cache.pack_write import PackOptions, read_cache, write_pack
from distillers.distributed.world import World
from distillers.errors import CorruptFileError, InputError
from distillers.files import sha256
from tests.data.trees import tree
from tests.distillation.cache.fakes import (
    CPU,
    image_set,
    open_at,
    task_of,
    teacher_of,
    wanted,
)
from tests.distillation.cache.test_commands import (  # noqa: F401
    DIGITS,
    same,
    student,
    teacher,
    there,
    weights_of,
)

VIEWS, BATCH = 3, 7
WEIGHTS = {"kd": 1.0, "dist": 0.5, "rrd": 0.1}


def shuffled(source, seed=1):
    order = torch.randperm(len(source.train_labels), generator=torch.Generator().manual_seed(seed))
    return source.keep(order)


def filled(where, source):
    """What a teacher computed of all views, and its facts."""
    asked = wanted(where, source, VIEWS)
    cache = open_at(asked, task_of(teacher_of(), WEIGHTS))
    fill_cache(cache, source, VIEWS, BATCH, World())
    return cache, read_cache(cache, asked.num_images * VIEWS), asked.key["teacher"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A source in another order, its cache, and a pack of it."""
    where = tmp_path_factory.mktemp("packed")
    source = shuffled(image_set())
    cache, values, facts = filled(where, source)
    write_pack(where / "pack", values, source, VIEWS, PackOptions(), facts)
    return source, cache, where / "pack"


def losses(source, wrapped, seed=4):
    """The losses of two epochs of a student, whose teacher must not run."""
    task = task_of(teacher_of(), WEIGHTS)
    kept = {"drop_last": False, "device": CPU, "views": VIEWS}
    loader = CachedTeacherLoader(source.train_loader(BATCH, seed=seed, **kept), wrapped)
    task.frozen.forward = None
    torch.manual_seed(0)
    return [task(batch).loss.detach() for epoch in (1, 2) for batch in loader.epoch(epoch)]


@pytest.mark.parametrize("seed", [2, 3])
def test_a_pack_gives_the_same_loss_in_any_order_of_the_images(seed, packed):
    source, cache, folder = packed
    other = shuffled(image_set(), seed)
    assert not torch.equal(other.train_images, source.train_images)
    pack = Pack(folder)
    expected = losses(source, cache)
    found = losses(pack.align(other), pack)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_images_are_recognised_in_files_of_other_names(tmp_path):
    reading = DecodeOptions(image_size=16)
    source = source_of("folder", tree(tmp_path / "one"), reading=reading)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "one", other)
    for number, path in enumerate(sorted(other.rglob("train/*/*.JPEG"), reverse=True)):
        path.rename(path.parent / f"{number:03d}.jpg")
    renamed = source_of("folder", other, reading=reading)
    count = len(source.train_labels)
    values = {"teacher_logits": torch.randn(2 * count, 3)}
    write_pack(tmp_path / "pack", values, source, 2, PackOptions(), {"model": "none"})
    aligned = Pack(tmp_path / "pack").align(renamed)
    assert not torch.equal(image_hashes(renamed), image_hashes(source))
    assert torch.equal(image_hashes(aligned), image_hashes(source))
    kept = {"seed": 0, "drop_last": False, "device": CPU, "views": 2}
    for mine, its in zip(
        aligned.train_loader(4, **kept).epoch(1),
        source.train_loader(4, **kept).epoch(1),
        strict=True,
    ):
        assert torch.equal(mine.images, its.images)
    (other / "train" / aligned.class_names[0] / "new.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"pack of other images: 0 of .* 1 training .*new\.jpg"):
        Pack(tmp_path / "pack").align(source_of("folder", other, reading=reading))


# ---- what is stored -----------------------------------------------------------------------------


def test_the_rest_keeps_its_mass():
    torch.manual_seed(0)
    logits = 5 * torch.randn(20, 50)
    found = decode_logits(encode_logits(logits, 4), 50)
    mine, its = found.double().softmax(1), logits.double().softmax(1)
    top = logits.topk(4).indices
    torch.testing.assert_close(mine.gather(1, top), its.gather(1, top), rtol=5e-3, atol=1e-4)
    others = mine.scatter(1, top, 0)
    expected = its.scatter(1, top, 0).sum(1)
    torch.testing.assert_close(others.sum(1), expected, rtol=5e-3, atol=1e-4)
    shares = others[others > 0].view(20, 46)
    torch.testing.assert_close(shares, shares[:, :1].expand(-1, 46))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_all_logits_are_kept_as_a_cache_keeps_them(scale):
    logits = (scale * torch.randn(9, 6)).half().float() if scale == 1 else scale * torch.randn(9, 6)
    for top_k in (None, 6, 9):
        found = decode_logits(encode_logits(logits, top_k), 6)
        torch.testing.assert_close(found, logits, rtol=1e-3, atol=0)
        assert scale != 1 or torch.equal(found, logits)


def test_embeddings_in_eight_bits_are_off_by_half_a_step():
    torch.manual_seed(0)
    pooled = torch.randn(30, 64) * torch.logspace(-3, 3, 30)[:, None]
    pooled[4] = 0
    found = decode_embeddings(encode_embeddings(pooled, "int8"))
    assert bool(((found - pooled).abs() <= pooled.abs().amax(1, keepdim=True) / 253).all())
    half = decode_embeddings(encode_embeddings(pooled, "half"))
    torch.testing.assert_close(half, pooled, rtol=1e-3, atol=1e-6)
    assert encode_embeddings(pooled, "none") == {}


def test_shards_are_one_pack(packed, tmp_path, monkeypatch):
    source, cache, folder = packed
    monkeypatch.setattr("distillers.distillation.cache.pack_write.SHARD_BYTES", 500)
    values = read_cache(cache, len(source.train_labels) * VIEWS)
    write_pack(tmp_path / "pack", values, source, VIEWS, PackOptions(), {})
    assert len(list((tmp_path / "pack").glob("*.safetensors"))) > 3
    view = torch.tensor([0, 89, 31, 60])
    one, other = (Pack(each).values(view, CPU) for each in (folder, tmp_path / "pack"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- what is refused ----------------------------------------------------------------------------


def test_a_pack_whose_copy_was_interrupted_is_copied_again(packed, tmp_path, monkeypatch):
    pack = Pack(packed[2])

    def interrupted(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distillers.distillation.cache.pack.write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack.copy(tmp_path / "caches")
    assert not any(map(is_pack, (tmp_path / "caches").iterdir()))
    assert Pack(pack.copy(tmp_path / "caches")).manifest == pack.manifest


def test_every_flipped_byte_is_found(packed, tmp_path):
    files = sorted(packed[2].iterdir())
    for path in files:
        size = path.stat().st_size
        for at in {0, 9, size // 3, size // 2, size - 2}:
            shutil.rmtree(tmp_path / "pack", ignore_errors=True)
            shutil.copytree(packed[2], tmp_path / "pack")
            content = bytearray(path.read_bytes())
            content[at] ^= 1
            (tmp_path / "pack" / path.name).write_bytes(content)
            with pytest.raises(CorruptFileError, match="is damaged"):
                Pack(tmp_path / "pack")


def crafted(folder, change, shard=None):
    """Change a pack, and write checksums that fit."""
    manifest, _ = load_json(folder / MANIFEST)
    path = folder / manifest["shards"][0]["file"]
    if shard is not None:
        path.write_bytes(shard if isinstance(shard, bytes) else save(shard(load_file(path))))
        manifest["shards"][0]["sha256"] = sha256(path)
    change(manifest)
    (folder / MANIFEST).write_bytes(dump_json(manifest))


ENTRIES = {
    "format": ["1", None],
    "images": [29, 0, -1, 10**15, "30"],
    "views": [2, 4, 10**9, 2.0],
    "num_classes": [4, 6, 0, None, "5"],
    "top_k": ["5", 0],
    "class_names": ["abcde", [1] * 5],
    "augmentation": [None, "x"],
    "teacher": [3],
    "shards": [[], [1], [{}], {}, [{"file": "../pack.json", "sha256": "0"}]],
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_manifest_that_is_not_valid_is_refused_with_a_right_checksum(name, packed, tmp_path):
    for number, value in enumerate(ENTRIES[name]):
        folder = tmp_path / str(number)
        shutil.copytree(packed[2], folder)
        crafted(folder, lambda manifest, value=value: manifest.update({name: value}))
        with pytest.raises(CorruptFileError, match=str(folder)) as caught:
            Pack(folder)
        assert len(str(caught.value)) < 1000
    shutil.copytree(packed[2], tmp_path / "without")
    crafted(tmp_path / "without", lambda manifest: manifest.pop(name))
    with pytest.raises(CorruptFileError, match=f"has no {name}"):
        Pack(tmp_path / "without")


SHARDS = {
    "junk": b"junk",
    "empty": lambda _: {},
    "no images": lambda held: {name: held[name] for name in held if name != "image"},
    "one more": lambda held: held | {"more": torch.zeros(30, 3)},
    "other rows": lambda held: {name: value[:9] for name, value in held.items()},
    "other hashes": lambda held: held | {"image": held["image"].int()},
    "other scale": lambda held: held | {"logits_scale": torch.zeros(30)},
    "no such class": lambda held: (
        {name: held[name] for name in held if name != "logits"}
        | {"top_logits": torch.zeros(30, 3, 2), "rest": torch.zeros(30, 3)}
        | {"top_classes": torch.full((30, 3, 2), 5)}
    ),
}


@pytest.mark.parametrize("what", SHARDS)
def test_tensors_that_are_no_packs_are_refused_with_a_right_checksum(what, packed, tmp_path):
    shutil.copytree(packed[2], tmp_path / "pack")
    crafted(tmp_path / "pack", lambda manifest: manifest.update(top_k=2), SHARDS[what])
    with pytest.raises(CorruptFileError, match=str(tmp_path / "pack")):
        Pack(tmp_path / "pack")


def test_a_manifest_without_a_checksum_or_nested_deeply_is_refused(packed, tmp_path):
    shutil.copytree(packed[2], tmp_path / "pack")
    for text in (json.dumps(Pack(packed[2]).manifest), "[" * 10**5, '{"a":' * 10**5, "[]"):
        (tmp_path / "pack" / MANIFEST).write_text(text)
        with pytest.raises(CorruptFileError, match="is damaged"):
            Pack(tmp_path / "pack")


def test_a_pack_that_does_not_fit_is_refused(packed):
    source, _, folder = packed
    pack = Pack(folder)
    with pytest.raises(InputError, match=r"other images: 1 of its 30 .* and 0 training images"):
        pack.align(source.keep(torch.arange(29)))
    with pytest.raises(InputError, match=r"other classes.*class 1 is b there and B here"):
        pack.align(replace(source, class_names=tuple("aBcde")))
    with pytest.raises(InputError, match=r"another augmentation: augmentation .* there"):
        pack.align(replace(source, flip=False))
    with pytest.raises(InputError, match=r"read teacher_maps, but the pack"):
        pack.check_reads(["teacher_maps", "teacher_logits"])
    assert len(pack.align(replace(source, mean=(0.1,) * 3)).train_labels) == 30  # no matter


def test_a_folder_in_use_is_not_written_to(packed):
    with pytest.raises(InputError, match="is not an empty folder"):
        write_pack(packed[2], {}, packed[0], VIEWS, PackOptions(), {})
    assert is_pack(packed[2])


# ---- the commands -------------------------------------------------------------------------------


REFUSED = {
    "--distill fitnet -b 1": "the loss fitnet needs teacher_channels, teacher_maps, teacher_sizes",
    "--distill simkd -b 1": "the loss simkd needs teacher_dim, teacher_final, teacher_head",
    "--distill rrd -b 1": "rrd needs teacher_dim, teacher_pooled, but the pack",
    "--teacher_head fit": "--teacher_head is for a network, but",
    "--model_t resnet8": "--model_t is for a network, but",
    "--teacher_cache auto": "is a pack of what the teacher computed; leave --teacher_cache out",
    "--mixup 0.2": "holds what the teacher computed for unmixed images",
    "--aug_repeats 3": "shows one of its fixed views; leave one of them out",
    "--distill mlkd -b 1": "second, strongly augmented one; give the teacher itself",
    "--path_t teacher.pth": "which can only be the only teacher",
    "--views 3": "--views is 3, but the pack",
    "--hflip 0.5": "is a pack of another augmentation",
    "--labels_per_class 2": "is a pack of other images",
}


def test_the_commands_export_import_and_train(there, capsys):  # noqa: F811
    flags = [*DIGITS, "--path_t", "teacher.pth", "--views", "2", "--teacher_cache", "auto"]
    assert cli.run("cache", ["export", "out", *flags, "--top_k", "3"]) == 0
    assert "rest, top_classes, top_logits of 96 images x 2 views" in capsys.readouterr().out
    assert cli.run("cache", ["import", "out", "--dataset", "digits"]) == 0
    printed = capsys.readouterr().out
    assert "fits the 96 training images, 2 views each" in printed
    where = printed.split("--path_t ")[1].strip()
    student("--teacher_cache", where, "--epochs", "2", "--save_dir", "beside")
    assert "the teacher ran for 0 images" in capsys.readouterr().out
    manifest = json.loads((there / "out" / "pack.json").read_text())
    assert manifest["teacher"]["model"] == "resnet8"
    assert math.isclose(manifest["top_k"], 3)
    (there / "teacher.pth").rename(there / "away.pth")
    alone = [*DIGITS, "--path_t", where, "--epochs", "2"]  # the same bits without the teacher
    assert cli.run("student", [*alone, "--save_dir", "alone"]) == 0
    assert f"teacher outputs: those of the pack {where}" in capsys.readouterr().out
    assert same(*(weights_of(there / name) for name in ("beside", "alone")))
    (there / "away.pth").rename(there / "teacher.pth")
    other = torch.load(there / "teacher.pth", weights_only=True)
    other["model"] = {name: 2 * value for name, value in other["model"].items()}
    torch.save(other, there / "other.pth")
    before = sorted(there.rglob("*"))
    for words, message in REFUSED.items():
        assert cli.run("student", [*alone, *words.split()]) == 2, words
        (error,) = capsys.readouterr().err.splitlines()
        assert message in error, words
    beside = [*DIGITS, "--path_t", "other.pth", "--teacher_cache", where]
    assert cli.run("student", [*beside, "--save_dir", "other"]) == 2
    assert "by another teacher, resnet8: its weights differ" in capsys.readouterr().err
    assert cli.run("student", [*alone[:-4], "--path_t", f"{where}/pack.json"]) == 2
    assert "pack.json is a file of a pack; name its folder" in capsys.readouterr().err
    assert cli.run("cache", ["export", "again", *alone]) == 2
    assert "is a pack already; give the teacher itself" in capsys.readouterr().err
    assert sorted(there.rglob("*")) == before


def test_a_pack_of_embeddings_teaches_a_backbone(there, capsys):  # noqa: F811
    flags = [*DIGITS, "--distill", "embedmatch", "-c", "0", "-d", "0", "-b", "1"]
    flags += ["--student_head", "none", "--epochs", "1"]
    words = [*flags, "--path_t", "teacher.pth", "--views", "1", "--teacher_cache", "auto"]
    assert cli.run("cache", ["export", "out", *words, "--teacher_head", "none"]) == 0
    assert cli.run("student", [*flags, "--path_t", "out", "--save_dir", "backbone"]) == 0
    assert "--probe knn scores its embeddings" in capsys.readouterr().out
    assert cli.run("student", [*DIGITS, "--path_t", "out"]) == 2
    assert "the loss kd needs teacher_logits, but the pack out has only teacher_pooled" in (
        capsys.readouterr().err
    )

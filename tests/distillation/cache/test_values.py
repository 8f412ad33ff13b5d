import json
import os
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from distillers.checkpoints.input_adapter import InputAdapter
from distillers.config.run_files import dump_json, load_json
from distillers.distillation.cache.card import CARD
from distillers.distillation.cache.folder import CacheFolder, resolve_cache_dir
from distillers.distillation.cache.key import cache_key
from distillers.distillation.cache.loader import CachedTeacherLoader
from distillers.distillation.cache.maintenance import find_caches, info
from distillers.errors import InputError
from tests.distillation.cache.fakes import (
    build,
    contents,
    image_set,
    loader_of,
    open_at,
    task_of,
    teacher_of,
    wanted,
)
from tests.run_folders import corrupt


def flat(values):
    """Everything of a batch as one row."""
    tensors = []
    for name in sorted(values):
        value = values[name]
        tensors += value if isinstance(value, list) else [value]
    return torch.cat([tensor.flatten() for tensor in tensors])


def count_runs(task):
    """A list that gets the number of images of each run of the teacher."""
    runs, read = [], task.read_teacher
    task.read_teacher = lambda images, number=0: (runs.append(len(images)), read(images, number))[1]
    return runs


def test_a_loss_reads_the_same_from_the_cache_as_from_the_teacher(tmp_path):
    source, task = image_set(), task_of(teacher_of())
    cache = open_at(wanted(tmp_path, source), task)
    for epoch in (1, 2, 4):
        batches = list(loader_of(source).epoch(epoch))
        taught = list(CachedTeacherLoader(loader_of(source), cache).epoch(epoch))
        for plain, batch in zip(batches, taught, strict=True):
            assert torch.equal(plain.images, batch.images)
            exact = task.read_teacher(plain.images)
            assert {k: type(v) for k, v in batch.teacher.items()} == {
                k: type(v) for k, v in exact.items()
            }
            torch.testing.assert_close(flat(batch.teacher), flat(exact), rtol=2**-10, atol=1e-6)
            torch.testing.assert_close(task(batch).loss, task(plain).loss, rtol=2e-3, atol=1e-4)


def test_the_teacher_runs_once_a_view(tmp_path):
    source, task = image_set(), task_of(teacher_of())
    cache = open_at(wanted(tmp_path, source), task)
    runs = count_runs(task)
    first = [flat(b.teacher) for b in CachedTeacherLoader(loader_of(source), cache).epoch(1)]
    assert sum(runs) == cache.num_computed == len(source.train_labels)
    again = [
        flat(b.teacher) for b in CachedTeacherLoader(loader_of(source), cache).epoch(4)
    ]  # V epochs on
    assert sum(runs) == len(source.train_labels)
    assert sorted(torch.cat(first).tolist()) == sorted(torch.cat(again).tolist())
    for epoch in (2, 3):
        list(CachedTeacherLoader(loader_of(source), cache).epoch(epoch))
    assert sum(runs) == 3 * len(source.train_labels) == cache.num_filled()


def test_only_what_is_missing_is_computed(tmp_path):
    source, task = image_set(), task_of(teacher_of())
    cache = open_at(wanted(tmp_path, source), task)
    runs = count_runs(task)
    batches = list(loader_of(source, shuffle=False).epoch(1))
    cache.fill(batches[0].images[:3], batches[0].view[:3])
    cache.values(batches[0].images, batches[0].view)
    assert runs == [3, 4]


def test_methods_share_what_they_have_in_common(tmp_path):
    """Logits that KD stored are read by a loss that reads all; maps and the final map are one."""
    source, teacher = image_set(), teacher_of()
    asked = wanted(tmp_path, source)
    with torch.no_grad():
        few = task_of(teacher, {"kd": 1.0})
    list(CachedTeacherLoader(loader_of(source), open_at(asked, few)).epoch(1))
    assert set(json.loads((asked.path / CARD).read_text())["parts"]) == {"logits"}
    before = (asked.path / "logits.f16").read_bytes()
    cache = open_at(asked, task_of(teacher))
    assert cache.num_filled() == 0
    list(CachedTeacherLoader(loader_of(source), cache).epoch(1))
    assert (asked.path / "logits.f16").read_bytes() == before
    parts = json.loads((asked.path / CARD).read_text())["parts"]
    assert len(parts) == len(set(map(str, parts.values())))  # no place is stored twice
    cache = open_at(asked, few)
    runs = count_runs(few)
    list(CachedTeacherLoader(loader_of(source), cache).epoch(1))
    assert runs == []


def test_a_run_with_more_views_goes_on_with_a_cache_of_fewer(tmp_path):
    source, task = image_set(), task_of(teacher_of())
    one = open_at(wanted(tmp_path, source, 1), task)
    every = open_at(wanted(tmp_path, source, 162), task)
    runs = count_runs(task)
    list(CachedTeacherLoader(loader_of(source, 1), one).epoch(1))
    list(CachedTeacherLoader(loader_of(source, 162, shuffle=False), every).epoch(1))
    assert sum(runs) == len(source.train_labels)
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_rows_are_computed_anew_and_told(tmp_path, capsys):
    build(tmp_path)
    whole = contents(tmp_path)
    source, (folder,) = image_set(), tmp_path.iterdir()
    data = bytearray(whole["logits.f16"])
    data[5 * 10 + 1] ^= 64  # of row 5, five logits long
    (folder / "logits.f16").write_bytes(data)
    os.truncate(folder / "pooled.f16", len(whole["pooled.f16"]) - 20)
    task = task_of(teacher_of())
    cache = open_at(wanted(tmp_path, source), task)
    runs = count_runs(task)
    for epoch in (1, 2, 3):
        list(CachedTeacherLoader(loader_of(source), cache).epoch(epoch))
    assert sum(runs) == cache.num_damaged == 2
    told = re.findall(r"checksum did not match: (\d+) rows? in ", capsys.readouterr().err)
    assert sum(map(int, told)) == 2
    for name, again in contents(tmp_path).items():
        halves, exact = np.frombuffer(again, "<f2"), np.frombuffer(whole[name], "<f2")
        assert name.endswith(".rows") or np.allclose(halves, exact, rtol=2e-3, atol=1e-6)


def other_weights(teacher, source):
    teacher.fc.bias.data.add_(1e-6)
    return source


def other_modules(teacher, source):
    teacher.late = torch.nn.ReLU6()
    return source


def other_pixels(_, source):
    source.train_images[3].add_(1)
    return source


def other_labels(_, source):
    source.train_labels[3] = 0
    return source


CHANGES = {
    "teacher.weights": other_weights,
    "teacher.modules": other_modules,
    "data.pixels": other_pixels,
    "data.labels": other_labels,
    "data.mean": lambda _, source: replace(source, mean=(0.5, 0.5, 0.4)),
    "data.std": lambda _, source: replace(source, std=(0.2, 0.2, 0.3)),
    "data.augmentation": lambda _, source: replace(source, flip=False),
    "data.images": lambda _, source: source.keep(torch.arange(29)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_of_something_else_is_refused_with_the_reason(tmp_path, change):
    source, teacher = image_set(), teacher_of()
    old = cache_key(teacher, "slow", source)
    place = resolve_cache_dir(tmp_path, old)
    CacheFolder(place, old)
    source = CHANGES[change](teacher, source)
    key = cache_key(teacher, "slow", source)
    assert resolve_cache_dir(tmp_path, key) != place
    for refused in (lambda: resolve_cache_dir(place, key), lambda: CacheFolder(place, key)):
        with pytest.raises(InputError, match=f"cache of something else: .*{change}.* differ"):
            refused()
    assert resolve_cache_dir(place, old) == place


def test_what_comes_before_the_teacher_is_part_of_the_key():
    source, teacher, mean, std = image_set(), teacher_of(), (0.5,) * 3, (0.2,) * 3
    keys = [
        cache_key(net, "slow", source)
        for net in (
            teacher,
            InputAdapter(teacher, mean, std, mean, (0.3,) * 3, None),
            InputAdapter(teacher, mean, std, mean, (0.4,) * 3, None),
            InputAdapter(teacher, mean, std, mean, (0.4,) * 3, (8, 8)),
            InputAdapter(teacher, mean, std, mean, (0.4,) * 3, (16, 16)),
        )
    ]
    assert len({json.dumps(key) for key in keys}) == 5


def test_where_a_network_is_read_is_part_of_a_part(tmp_path):
    source, task = image_set(), task_of(teacher_of())
    cache = open_at(wanted(tmp_path, source), task)
    with pytest.raises(InputError, match=r"has pooled with .*, but this run needs"):
        cache.folder.part("pooled", {"module": "fc", "side": "in", "shape": [13]}, 3)


BAD_CARDS = ("", "{", "[]", '{"format": 1}', '{"format": 99, "key": {}, "parts": {}}')


@pytest.mark.parametrize("content", BAD_CARDS)
def test_a_card_that_cannot_be_read_is_refused(tmp_path, content):
    asked = wanted(tmp_path, image_set())
    CacheFolder(asked.path, asked.key)
    (asked.path / CARD).write_text(content)
    with pytest.raises(InputError, match=r"cannot be read|is not the card|newer version"):
        CacheFolder(asked.path, asked.key)


def test_no_damage_to_a_card_is_a_traceback_or_another_cache(tmp_path):
    asked = wanted(tmp_path, image_set())
    open_at(asked, task_of(teacher_of()))
    content, rng = (asked.path / CARD).read_bytes(), random.Random(0)
    whole = info(find_caches(asked.path)[0])
    for _ in range(300):
        (asked.path / CARD).write_bytes(corrupt(content, rng))
        message = ""
        try:
            found = find_caches(asked.path)[0]
            assert info(found)[0] == whole[0]
        except InputError as error:
            message = str(error)
        assert message.isprintable()
        assert not message or str(asked.path) in message


CRAFTED = {
    "name": {"parts": {"../../x": {"shape": [3]}}},
    "absolute name": {"parts": {"/x": {"shape": [3]}}},
    "size": {"parts": {"logits": {"shape": [10**9, 10**9]}}},
    "negative size": {"parts": {"logits": {"shape": [-3]}}},
    "no shape": {"parts": {"logits": 3}},
    "format": {"format": "1"},
    "date": {"made": "soon"},
    "no teacher": {"key": {"data": {"name": "digits"}}},
    "no images": {"key": {"teacher": {"model": "x"}, "data": {"name": "x", "images": "3"}}},
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_cards_are_refused(case, tmp_path):
    asked = wanted(tmp_path / "caches", image_set())
    open_at(asked, task_of(teacher_of()))
    card, _ = load_json(asked.path / CARD)
    (asked.path / CARD).write_bytes(dump_json({**card, **CRAFTED[case]}))
    with pytest.raises(InputError, match=r"cache\.json cannot be read"):
        find_caches(asked.path)
    assert [path.name for path in tmp_path.iterdir()] == ["caches"]


def test_a_card_that_is_nested_without_end_is_refused(tmp_path):
    (tmp_path / CARD).write_text("[" * 100_000)
    with pytest.raises(InputError, match="not valid JSON"):
        find_caches(tmp_path)

"""Damaged and crafted files about a teacher's head: refused in a line, harmless, or unverified."""

import json
import random

import pytest
import torch
from safetensors.torch import save

from distillers.distillation.heads.class_embeddings import read_class_embeddings
from distillers.distillation.heads.class_map_file import read_class_map
from distillers.errors import InputError
from distillers.training.class_weight import _from_file
from distillers.training.head_file import read_head, write_head
from tests.run_folders import corrupt

NAMES = ["ant", "bee", "cat"]
THEIRS = [["tabby", "house cat"], ["carpenter ant"], ["honey bee"]]
TABLE = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


def embeddings_file(table=TABLE, names=None, **tensors):
    names = json.dumps(NAMES) if names is None else names
    return save({"class_embeddings": table, **tensors}, {"class_names": names})


READERS = {
    "map.csv": (b"tabby,cat\n1,ant\n2,bee\n", lambda path: read_class_map(path, THEIRS, NAMES)),
    "map.yml": (b"tabby: cat\n1: ant\n", lambda path: read_class_map(path, THEIRS, NAMES)),
    "map.json": (b'{"cat": ["tabby"], "ant": [1]}', lambda p: read_class_map(p, THEIRS, NAMES)),
    "weight.yml": (b"ant: 1\nbee: 2.5\ncat: 3\n", lambda path: _from_file(str(path), NAMES)),
    "x.safetensors": (embeddings_file(), lambda path: read_class_embeddings(path, NAMES)),
}


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_damage_is_a_line_with_the_file_or_unverified(name, count, tmp_path):
    content, read = READERS[name]
    rng, messages = random.Random(f"{name} {count}"), []
    for _ in range(count):
        (tmp_path / name).write_bytes(corrupt(content, rng))
        try:
            found = read(tmp_path / name)
        except InputError as error:
            messages.append(str(error))
        else:
            assert name != "x.safetensors" or "is not verified" in found.note
    assert messages
    assert all(str(tmp_path / name) in text and len(text) < 1000 for text in messages)


WRONG = {
    "integers": (embeddings_file(torch.ones(3, 5, dtype=torch.int64)), "of finite floats"),
    "complex": (embeddings_file(TABLE.to(torch.complex64)), "of finite floats"),
    "infinite": (embeddings_file(TABLE / 0), "of finite floats"),
    "no width": (embeddings_file(TABLE[:, :0]), "embedding of class ant is zero"),
    "zero": (embeddings_file(TABLE * torch.tensor([[1], [0], [1]])), "of class bee is zero"),
    "deep": (embeddings_file(names="[" * 10**5), "no safetensors file of class embeddings"),
    "numbers": (embeddings_file(names="[1, 2, 3]"), "must be a JSON list of names"),
    "scale of zero": (embeddings_file(logit_scale=torch.zeros(1)), "must be one number in"),
    "large scale": (embeddings_file(logit_scale=torch.tensor(1e30)), "must be one number in"),
    "complex scale": (embeddings_file(logit_scale=torch.tensor(1j)), "must be one number in"),
    "two scales": (embeddings_file(logit_scale=torch.ones(2)), "must be one number in"),
}


@pytest.mark.parametrize("what", WRONG)
def test_class_embeddings_of_another_kind_are_refused(what, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(WRONG[what][0])
    with pytest.raises(InputError, match=WRONG[what][1]):
        read_class_embeddings(tmp_path / "x.safetensors", NAMES)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1e308", "1e13", "one", "[1]"])
def test_weights_of_classes_out_of_range_are_refused(weight, tmp_path):
    (tmp_path / "weight.yml").write_text(f"ant: 1\nbee: {weight}\ncat: 3\n")
    with pytest.raises(InputError, match=r"--class_weight .*weight.yml"):
        _from_file(str(tmp_path / "weight.yml"), NAMES)


@pytest.mark.parametrize(
    "content", [b'"' + b"x" * 10**6 + b'",ant', b'"tabby,cat\n1,ant', "tabby,cat".encode("utf-16")]
)
def test_other_tables_are_no_class_map(content, tmp_path):
    (tmp_path / "map.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"--class_map .*map.csv") as caught:
        read_class_map(tmp_path / "map.csv", THEIRS, NAMES)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_damaged_fitted_head_is_never_used(count, tmp_path, capsys):
    path = tmp_path / "cache" / "head.safetensors"
    held = {"weight": torch.randn(3, 5), "bias": torch.randn(3)}
    write_head(path, held, {"line": "a head", "accuracy": 0.5}, NAMES)
    whole, content = read_head(path), path.read_bytes()
    assert torch.equal(whole["weight"], held["weight"])
    assert (whole["line"], whole["accuracy"]) == (f"a head (read from {path})", 0.5)
    rng = random.Random(count)
    for _ in range(count):
        damaged = corrupt(content, rng)
        path.write_bytes(damaged)
        capsys.readouterr()
        if damaged != content:
            assert read_head(path) is None
            assert f"{path} is damaged" in capsys.readouterr().err
    path.write_bytes(save(held, {"facts": '{"line": "of before", "accuracy": 1}'}))
    assert read_head(path) is None

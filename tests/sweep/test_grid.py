"""Grid files: valid entries, and the errors for others."""

import json
from dataclasses import replace

import pytest

from distillers.errors import InputError
from distillers.sweep.expand import find_teacher
from distillers.sweep.grid import Grid, Method, Pair, Teacher
from distillers.sweep.grid_file import read_grid, update_grid
from tests.sweep.fakes import parse_grid

WHOLE = """
save_dir: save/here
fixed: {dataset: digits, epochs: 3, lr-decay-epochs: [1, 2]}
teachers:
  big: {model: resnet20, epochs: 5, trial: 7}
  there: some/where.pth
pairs:
  - big -> resnet8
  - {pair: there -> vgg8, learning_rate: 0.01}
methods:
  - alone
  - crd+kd
  - mine.losses:Own
  - {distill: kd, cls: 1, div: 1}
  - {name: soft, distill: kd, kd_T: 8, pairs: [big -> resnet8]}
trials: [1, 2]
set: {batch_size: [32, 64], channels_last: true}
"""


def test_every_entry_of_a_file_is_read():
    grid = parse_grid(WHOLE, "here")
    assert grid.save_dir == "save/here"
    assert grid.fixed == {"dataset": "digits", "epochs": 3, "lr_decay_epochs": [1, 2]}
    assert grid.teachers == {
        "big": Teacher(model="resnet20", trial=7, flags={"epochs": 5}),
        "there": Teacher(path="some/where.pth"),
    }
    assert grid.pairs == (
        Pair("big", "resnet8", {}),
        Pair("there", "vgg8", {"learning_rate": 0.01}),
    )
    assert [pair.label for pair in grid.pairs] == [
        "big -> resnet8",
        "there -> vgg8 (learning_rate 0.01)",
    ]
    assert grid.methods == (
        Method("alone", {}),
        Method("crd+kd", {"distill": "crd+kd"}),
        Method("mine.losses:Own", {"loss": "mine.losses:Own"}),
        Method("kd (cls 1, div 1)", {"distill": "kd", "cls": 1, "div": 1}),
        Method("soft", {"distill": "kd", "kd_T": 8}, (("big", "resnet8"),)),
    )
    assert [grid.methods[4].applies_to(pair) for pair in grid.pairs] == [True, False]
    assert all(grid.methods[3].applies_to(pair) for pair in grid.pairs)
    assert grid.trials == (1, 2)
    assert grid.sets == {"batch_size": (32, 64), "channels_last": (True,)}
    replace(grid, trusted=frozenset({"mine.losses"})).check()


def test_json_is_read_too(tmp_path):
    path = tmp_path / "grid.json"
    path.write_text(json.dumps({"pairs": ["resnet20 -> resnet8"], "methods": ["kd"]}))
    grid = read_grid(str(path))
    assert grid.pairs[0].student == "resnet8"
    assert grid.trials == (1,)


def test_a_teacher_without_an_entry_is_a_file_or_a_network():
    grid = Grid()
    for name, expected in {
        "resnet20": Teacher(model="resnet20"),
        "timm:resnet18": Teacher(model="timm:resnet18"),
        "save/t_best.pth": Teacher(path="save/t_best.pth"),
        "t.safetensors": Teacher(path="t.safetensors"),
    }.items():
        assert find_teacher(grid, Pair(name, "resnet8")) == expected


def test_flags_replace_axes_and_add_to_the_rest():
    grid = parse_grid(WHOLE, "here")
    other = update_grid(
        grid, pairs=["a -> b"], trials=[5], fixed={"epochs": 9}, sets={"kd_T": [1, 2]}
    )
    assert [pair.label for pair in other.pairs] == ["a -> b"]
    assert other.methods == grid.methods
    assert other.trials == (5,)
    assert other.fixed == {**grid.fixed, "epochs": 9}
    assert other.sets == {**grid.sets, "kd_T": (1, 2)}


WRONG = {
    "pairs: [a -> b]\nmethods: [{distill: kd, pairs: [a -> c]}]": "'a -> c', did you mean 'a -> b'",
    "pairs: [a -> b]\nmethod: [kd]": "no entry of a grid (here) 'method', did you mean 'methods'",
    "pairs: a -> b": "`pairs` of the grid must be a list",
    "pairs: [a, b]": "the pair a must read TEACHER -> STUDENT",
    "pairs: [a ->]": "the pair a -> must read",
    "pairs: [{pair: a -> b, epoch: 3}]": "'epoch', did you mean 'epochs'",
    "pairs: [{pair: a -> b, path_t: x}]": "gives path_t; `teachers` and `pairs` name it",
    "methods: [{cls: 1}]": "names neither `distill` nor `loss`",
    "methods: [3]": "the method 3 must be a name",
    "trials: [1.5]": "the trial 1.5 must be an integer",
    "trials: [true]": "the trial True must be an integer",
    "fixed: {epoch: 3}": "no flag (in fixed of the grid) 'epoch', did you mean 'epochs'",
    "fixed: {gpu_id: 0}": "fixed gives gpu_id; the sweep distributes its runs",
    "fixed: {trial: 0}": "fixed gives trial; `trials` sets the seeds",
    "fixed: {epochs: {a: 1}}": "gives epochs a mapping",
    "set: {resume: [true]}": "set gives resume; every run of a sweep resumes",
    "set: {epochs: []}": "set gives epochs no values",
    "set: [epochs]": "`set` of the grid must be a mapping",
    "teachers: [a]": "`teachers` of the grid must be a mapping",
    "teachers: {a: 3}": "the teacher a must be a path or a mapping",
    "teachers: {a: {cls: 1}}": "no flag (in the teacher a of the grid) 'cls'",
    "teachers: {a: {trial: x}}": "the trial x must be an integer",
    "- a": "must be a mapping with pairs",
    "a: [": "cannot read the grid here",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_entry_is_named(text):
    with pytest.raises(InputError) as told:
        parse_grid(text, "here")
    assert WRONG[text] in str(told.value)


INCOMPLETE = {
    "methods: [kd]": "the grid has no pairs",
    "pairs: [a -> b]\nmethods: [{distill: kd, cls: 1}]\nset: {cls: [1, 2]}": "cls is given by the",
    "pairs: [{pair: a -> b, cls: 1}]\nmethods: [kd]\nset: {cls: [1]}": "cls is given by the pair",
    "pairs: [{pair: a -> b, cls: 1}]\nmethods: [{distill: kd, cls: 2}]": "cls is given by the pair",
}


@pytest.mark.parametrize("text", INCOMPLETE)
def test_axes_that_are_empty_or_contradict_each_other_are_refused(text):
    with pytest.raises(InputError, match=r"the grid has no|keep one of them") as told:
        parse_grid(text, "here").check()
    assert INCOMPLETE[text] in str(told.value)


def test_a_missing_file_is_reported():
    with pytest.raises(InputError, match=r"cannot read the grid nowhere\.yml"):
        read_grid("nowhere.yml")


def test_entries_may_be_merged():
    text = """
pairs: [resnet20 -> resnet8]
methods:
  - &kd {distill: kd, cls: 1, div: 1}
  - &more {<<: *kd, div: 2}
  - {<<: *more, name: most, kd_T: 2}
"""
    methods = parse_grid(text, "here").methods
    assert [method.flags.get("div") for method in methods] == [1, 2, 2]
    assert methods[2].flags == {"distill": "kd", "cls": 1, "div": 2, "kd_T": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("methods: [kd]\nmethods: [sp]", "methods is given twice"),
        ("fixed: {lr-decay-epochs: 1, lr_decay_epochs: 2}", "lr_decay_epochs is given twice"),
        ("methods: [{distill: kd, cls: 1, cls: 2}]", "cls is given twice"),
        ("methods: []", "`methods` of the grid must be a list of one or more"),
        ("trials: []", "`trials` of the grid must be a list of one or more"),
        ("methods: [{distill: sp, pairs: []}]", "`pairs` of the grid must be a list of one or"),
    ],
)
def test_what_is_given_twice_or_is_empty_is_refused(text, told):
    with pytest.raises(InputError, match=told):
        parse_grid(f"pairs: [resnet20 -> resnet8]\n{text}", "here")

"""Expansion of a grid to command lines, without duplicates."""

import shlex
from pathlib import Path

import pytest
import torch

from distillers import data, models
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.distillation import loss_weights as weights
from distillers.distillation.cache.pack_write import PackOptions, write_pack
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.sweep.expand import expand
from distillers.sweep.grid_file import read_grid, update_grid
from distillers.training.teachers import load_teachers
from tests.sweep.fakes import parse_grid

SMALL = """
fixed: {dataset: digits, epochs: 2, nce_k: 64}
pairs: [resnet20 -> resnet8, resnet20 -> vgg8]
methods: [alone, kd, crd+kd, {distill: kd, cls: 0.3, div: 0.7}]
trials: [1, 2]
set: {learning_rate: [0.05, 0.1]}
"""


def plan_of(text, **changes):
    return expand(update_grid(parse_grid(text, "here"), **changes))


def test_each_line_read_by_its_command_is_the_run():
    plan = plan_of(SMALL)
    kinds = {"train_teacher.py": TeacherConfig, "train_student.py": StudentConfig}
    assert len(plan.runs) == 1 + 2 * 2 * 4 * 2
    for run in plan.runs:
        python, script, *words = shlex.split(run.command_line())
        config = parse(kinds[script], words, script)
        assert python == "python"
        assert config == run.config
        assert config.save_dir == "./save"
        if isinstance(config, StudentConfig):
            chosen = weights.choose(config, "resnet20")
            place = config.folder(chosen.ce, chosen.kd, chosen.method, "resnet20")
            assert place == run.folder
            assert config.nce_k == 64
        else:
            assert config.folder() == run.folder
    assert len({run.folder for run in plan.runs}) == len(plan.runs)


def test_teachers_of_others_come_first_then_trial_by_trial():
    plan = plan_of(SMALL)
    first, *rest = plan.runs
    assert first.label == "resnet20  teacher"
    assert first.config.trial == 0
    assert [run.config.trial for run in rest] == sorted(run.config.trial for run in rest)
    students = [run for run in rest if run.command == "student"]
    assert all(run.teacher_run is first for run in students)
    best = str(first.folder / "resnet20_best.pth")
    assert {run.config.path_t for run in students} == {best}
    assert all(run.teacher_run is None for run in rest if run.command == "teacher")


def test_equal_points_give_one_run():
    """A student without a teacher is the same in every pair, and may be a teacher."""
    plan = plan_of(
        "fixed: {dataset: digits}\npairs: [resnet20 -> resnet8, resnet8 -> resnet8]\n"
        "methods: [alone, kd]\ntrials: [0]\nset: {nce_k: [8, 16]}"
    )
    assert plan.num_points == 8
    labels = [run.label for run in plan.runs]
    assert len(labels) == 2 + 4  # two teachers, one of them the student alone; four students
    alone = next(run for run in plan.runs if run.network == "resnet8")
    assert plan.other_labels[alone.folder] == [
        "resnet8  alone  nce_k 16  trial 0",
        "resnet8  teacher",
    ]
    assert labels.count("resnet8  alone  nce_k 8  trial 0") == 1


def test_points_that_differ_in_neutral_flags_only_are_refused():
    with pytest.raises(InputError, match="would be one run") as told:
        plan_of(SMALL, sets={"num_workers": [1, 2]})
    assert "differ in num_workers only" in str(told.value)


def test_null_leaves_out_a_flag_of_every_run():
    plan = plan_of(
        "fixed: {dataset: digits, teacher_cache: auto}\npairs: [resnet20 -> resnet8]\n"
        "methods: [kd, {name: two views, distill: mlkd, teacher_cache: null}]"
    )
    caches = {run.label: run.config.teacher_cache for run in plan.runs if run.command == "student"}
    assert list(caches.values()) == ["auto", None]
    assert "--teacher_cache" not in plan.runs[-1].args


def test_a_teacher_has_its_own_flags_and_seed():
    plan = plan_of(
        "fixed: {dataset: digits, epochs: 2, kd_T: 3}\n"
        "teachers: {big: {model: resnet20, epochs: 9, trial: 4}}\npairs: [big -> resnet8]"
    )
    teacher, student = plan.runs
    assert (teacher.config.epochs, teacher.config.trial, teacher.config.model) == (9, 4, "resnet20")
    assert (student.config.epochs, student.teacher) == (2, "resnet20")
    assert student.label == "big -> resnet8  kd  trial 1"


def test_a_pack_and_published_weights_are_teachers(tmp_path):
    digits = data.load("digits").keep(torch.arange(4))
    values = {"teacher_logits": torch.randn(4, 10)}
    write_pack(tmp_path / "pack", values, digits, 1, PackOptions(), {"model": "resnet20"})
    text = f"fixed: {{dataset: digits}}\nteachers: {{old: {tmp_path / 'pack'}, net: timm:resnet18}}"
    plan = plan_of(text, pairs=["old -> resnet8", "net -> resnet8"], methods=["kd"])
    found = [(run.teacher, run.config.path_t) for run in plan.runs]
    assert found == [("resnet20", str(tmp_path / "pack")), ("timm:resnet18",) * 2]


def test_a_checkpoint_is_a_teacher(tmp_path):
    folder = tmp_path / "resnet20_vanilla"
    folder.mkdir()
    path = folder / "resnet20_best.pth"
    torch.save({"model": models.create("resnet20", num_classes=10).state_dict()}, path)
    plan = plan_of("fixed: {dataset: digits}", pairs=[f"{path} -> resnet8"])
    (run,) = plan.runs
    assert (run.teacher, run.config.path_t, run.teacher_run) == ("resnet20", str(path), None)


def test_several_teachers_name_the_folder_as_their_run_does(tmp_path):
    """A grid gives further teachers by also_t; NAME=FILE names the architecture of a file."""
    names = ("torchvision:shufflenet_v2_x0_5", "resnet8")
    files = [tmp_path / "first.pth", tmp_path / "second.pth"]
    for name, path in zip(names, files, strict=True):
        torch.save(models.create(name, num_classes=10).state_dict(), path)
    text = f"fixed: {{dataset: digits, also_t: {files[1]}}}\n"
    text += f"teachers: {{first: '{names[0]}={files[0]}'}}"
    (run,) = plan_of(text, pairs=["first -> resnet8"], methods=["kd"]).runs
    loaded = load_teachers(run.config, data.source_of("digits"), World())
    assert run.teacher == loaded.name == "+".join(names)
    assert run.folder == loaded.run_folder(run.config)


WRONG = {
    "no/such_best.pth -> resnet8|kd|": "no/such_best.pth -> resnet8: there is no file",
    "resnet21 -> resnet8|kd|": "resnet21  teacher: no network 'resnet21', did you mean",
    "resnet20 -> resnet9|kd|": "no network 'resnet9'",
    "resnet20 -> resnet8|kdd|": "kdd  trial 1: no loss 'kdd', did you mean 'kd'",
    "resnet20 -> resnet8|kd|beta: 3": "--beta 3 has no loss to weight",
    "resnet20 -> resnet8|kd|epochs: 0": "--epochs is 0; it must be at least 1",
    "resnet20 -> resnet8|kd|epochs: many": "invalid literal for int",
    "resnet20 -> resnet8|kd|precision: fp8": "fp8",
    "resnet20 -> resnet8|kd|dataset: digit": "no dataset 'digit', did you mean 'digits'",
    "resnet20 -> resnet8|kd|option: [crd.dim=3]": "this run does not use crd",
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_runs_are_reported_before_anything_starts(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair, method, flag = case.split("|")
    text = f"pairs: ['{pair}']\nmethods: [{method}]\nset: {{{flag or 'epochs: 1'}}}"
    with pytest.raises(InputError) as told:
        plan_of(text)
    assert WRONG[case] in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "count"), [("digits", 1 + 12 * 3), ("cifar100", 1251)])
def test_the_example_grids_can_be_run(name, count):
    """13 pairs x 18 methods, 6 with FSP, 9 students alone, 5 trials of each; 6 teachers."""
    assert 13 * 18 * 5 + 6 * 5 + 9 * 5 + 6 == 1251
    path = Path(__file__).parents[2] / "examples" / f"sweep_{name}.yml"
    grid = read_grid(str(path))
    grid.check()
    assert len(expand(grid).runs) == count
    few = expand(update_grid(grid, pairs=["vgg13 -> vgg8"], trials=[1])).runs
    assert len(few) == 1 + len(grid.methods)


def test_a_thousand_runs_are_expanded_quickly():
    """Command lines that differ in the trial only are parsed once."""
    plan = plan_of(SMALL, trials=range(1, 101))
    assert len(plan.runs) == 1 + 100 * 16

"""Flags: their folder's hash, and the facts in their annotations."""

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Annotated

import pytest

from distillers.config import flags
from distillers.config.flags import Fact, LossOption, Range, at_least, flags_with, marked, markers
from distillers.config.hyperparameters import StepFlags
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.transfer import TransferConfig
from distillers.errors import InputError
from distillers.training.run_setup import build_hparams

CONFIGS = (TeacherConfig, StudentConfig, TransferConfig)


@dataclass(frozen=True, kw_only=True)
class Extended(StudentConfig):
    """A student's flags with two that a later version might add."""

    warmup: Annotated[int, at_least(0)] = 3
    """Changes results."""
    log_images: Annotated[bool, Fact.NO_EFFECT] = False
    """Changes no result."""


def test_a_new_flag_is_declared_in_one_place():
    config = parse(Extended, ["--path_t", "x.pth", "--warmup", "5"], "test")
    assert config.warmup == 5
    with pytest.raises(InputError, match="--warmup is -1; it must be at least 0"):
        replace(config, warmup=-1).check()


def test_a_new_flag_keeps_the_folders_of_earlier_runs():
    old, new = StudentConfig(path_t="x.pth"), Extended(path_t="x.pth")
    assert new.digest() == old.digest()
    assert replace(new, log_images=True).digest() == old.digest()
    assert replace(new, warmup=4).digest() != old.digest()


@pytest.mark.parametrize("config", CONFIGS)
def test_only_flags_that_can_change_results_change_the_folder(config):
    plain = config()
    without_effect = flags_with(config, Fact.NO_EFFECT)
    for field in fields(config):
        other = replace(plain, **{field.name: f"not {field.default}"})
        same = other.digest() == plain.digest()
        assert same == (field.name in without_effect), field.name


def test_images_in_a_folder_are_identified_by_where_they_are(tmp_path):
    cats = TeacherConfig(dataset="folder", data_dir=str(tmp_path / "cats"))
    dogs = TeacherConfig(dataset="folder", data_dir=str(tmp_path / "dogs"))
    assert cats.digest() != dogs.digest()


def test_where_the_teachers_cache_is_changes_nothing():
    auto, here = (StudentConfig(teacher_cache=cache) for cache in ("auto", "here"))
    assert auto.digest() == here.digest() != StudentConfig().digest()


def test_a_subclass_that_changes_a_default_inherits_the_annotations():
    assert dict(marked(TransferConfig, Range))["epochs"].allowed == "at least 1"
    with pytest.raises(InputError, match="--epochs is 0; it must be at least 1"):
        TransferConfig(path_s="x.pth", epochs=0).check()
    assert Fact.SAME_COST in markers(StudentConfig)["trial"]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_default_is_allowed(config):
    for name, numbers in marked(config, Range):
        value = getattr(config(), name)
        assert value is None or numbers.contains(value), name


def test_options_of_losses_name_loss_and_option():
    targets = [target for _, each in marked(StudentConfig, LossOption) for target in each.targets]
    assert len(targets) == len(set(targets))
    assert all(target.count(".") == 1 for target in targets)


WITH_OPT = {"opt": "adamw"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"opt": "adamv"}, "no optimizer 'adamv', did you mean 'adam'?"),
        ({"opt": "adahessian"}, "no optimizer 'adahessian'"),
        ({"sched": "cosin"}, "no schedule 'cosin', did you mean 'cosine'?"),
        ({"opt_eps": 1e-6}, "--opt_eps needs --opt"),
        ({"warmup_epochs": 5}, "--warmup_epochs needs --sched"),
        ({"sched_on_updates": True}, "--sched_on_updates needs --sched"),
        ({"sched": "rsqrt"}, "--sched rsqrt needs --warmup_epochs"),
        (
            {"sched": "cosine", "warmup_epochs": 300},
            "--warmup_epochs is 300; it must be less than --epochs 240",
        ),
        ({**WITH_OPT, "opt_betas": (0.9, 1.5)}, "it must be numbers in \\[0, 1\\)"),
        ({**WITH_OPT, "layer_decay": 0.0}, "--layer_decay is 0.0; it must be greater than 0"),
        ({"clip_mode": "agc"}, "--clip_mode agc needs --clip_grad"),
        ({"patience": 3}, "--patience needs held-out images; add --val_fraction"),
        ({"drop_path": 1.0}, "--drop_path is 1.0; it must be in \\[0, 1\\)"),
        ({"opt": "lamb", "shard": True}, "--shard supports --opt adam, .*, not lamb"),
        (
            {"clip_grad": 1.0, "clip_mode": "agc", "shard": True},
            "--shard supports --clip_mode norm and value, not agc",
        ),
    ],
)
def test_flags_of_the_step_that_do_not_fit_are_refused_before_training(flags, message):
    with pytest.raises(InputError, match=message):
        StudentConfig(path_t="x.pth", **flags).check()


def test_betas_are_read_from_the_command_line():
    for words in (["0.9,0.98"], ["0.9", "0.98"]):
        config = parse(TeacherConfig, ["--opt", "adamw", "--opt_betas", *words], "test")
        assert config.opt_betas == (0.9, 0.98)
        config.check()


def test_the_step_flags_of_a_run_are_its_hyperparameters():
    config = StudentConfig(path_t="x.pth", opt="lamb", sched="cosine", warmup_epochs=2)
    hparams = build_hparams(config, "resnet8", 32)
    for field in fields(StepFlags):
        assert getattr(hparams, field.name) == getattr(config, field.name)


@dataclass(frozen=True)
class Greeting:
    """Print a greeting."""

    name: str = "you"
    """Name that is
    greeted."""


@dataclass(frozen=True)
class Farewell(Greeting):
    """Print a farewell."""

    name: str = "all"
    times: int = 1
    """How often it is
    - once, say - printed."""


def test_the_help_of_a_flag_has_no_line_breaks_of_the_source(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for config in (Greeting, Farewell):
        with pytest.raises(SystemExit):
            parse(config, ["--help"], "greet")
        assert "Name that is greeted. (default: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse(Farewell, ["--help"], "greet")
    assert "How often it is - once, say - printed. (default: 1)" in capsys.readouterr().out


def test_one_file_by_two_paths_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--json and --csv are both"):
        flags.output_paths(SimpleNamespace(json="x", csv=str(tmp_path / "x")), ("json", "csv"))

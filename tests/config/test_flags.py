"""Flags: their folder's hash, and the facts in their annotations."""

from dataclasses import dataclass, fields, replace
from typing import Annotated

import pytest

from distillers.config.flags import Fact, LossOption, Range, at_least, flags_with, marked, markers
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.transfer import TransferConfig
from distillers.errors import InputError

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

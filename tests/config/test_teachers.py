import json

import pytest

from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teachers import TeacherFlags, collect_repeated
from distillers.errors import InputError


def parsed(words: str) -> StudentConfig:
    return parse(StudentConfig, words.split(), "train_student.py")


def test_repeated_flags_are_those_of_several_teachers() -> None:
    config = parsed(
        "--path_t a.pth --teacher_head keep --path-t timm:vit --teacher-head=fit --epochs 3 -c 0 "
        "--path_t=b --teacher_head none"
    )
    assert config.teachers() == [
        TeacherFlags("a.pth", None, "keep", None),
        TeacherFlags("timm:vit", None, "fit", None),
        TeacherFlags("b", None, "none", None),
    ]
    assert [one.is_named for one in config.teachers()] == [False, True, False]
    assert (config.epochs, config.cls) == (3, 0)


def test_one_value_is_for_all_teachers() -> None:
    config = parsed("--path_t a --path_t b --class_map m.yml --model_t resnet8")
    assert config.teachers() == [
        TeacherFlags("a", "resnet8", "keep", "m.yml"),
        TeacherFlags("b", None, "keep", "m.yml"),
    ]


def test_a_network_and_its_file_in_one_word() -> None:
    config = parsed("--path_t timm:resnet18=a.pth --path_t mine.nets:Net=b/c.pth")
    assert config.teachers() == [
        TeacherFlags("a.pth", "timm:resnet18", "keep", None),
        TeacherFlags("b/c.pth", "mine.nets:Net", "keep", None),
    ]


def test_what_a_run_has_written_down_names_the_same_teachers(tmp_path) -> None:
    config = parsed("--path_t a --path_t b --teacher_head fit --teacher_head none")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.as_json_types()))
    again = parsed(f"--config {file}")
    assert again.teachers() == config.teachers()
    assert again.digest() == config.digest() != parsed("--path_t a --path_t b").digest()
    assert parsed(f"--config {file} --path_t c --teacher_head keep").teachers() == [
        TeacherFlags("c", None, "keep", None)
    ]


def test_other_flags_are_left_as_they_are() -> None:
    words = ["--option", "kd.temperature=2", "-d", "0.5", "--gpu_id=0,1", "--path_t", "x"]
    assert collect_repeated(words) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--path_t a --path_t b --path_t c --teacher_head fit --teacher_head none", "given 2 time"),
        ("--path_t a --teacher_head fit --class_map m.yml", "with --teacher_head fit leave it out"),
        ("--path_t a --path_t b --teacher_weights 1", "one number for each of 2"),
        ("--path_t a --path_t b --teacher_weights 1,0", "must be greater than 0"),
        ("--path_t a --path_t b --taps_t x,y", "--taps_t is for a single teacher"),
        ("--epochs 1", "--path_t is missing"),
        ("--path_t a --teacher_temperature 0", "--teacher_temperature is 0.0; it must be greater"),
    ],
)
def test_misfits_are_refused(words, message) -> None:
    with pytest.raises(InputError, match=message):
        parsed(words).check()

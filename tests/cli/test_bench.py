"""`distillers bench`: what its hours and advice follow from, and that the command runs."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from distillers import models
from distillers.cli import main as cli
from distillers.cli.bench_table import Measurements, TrainingLength, advice, lines
from distillers.training.benchmark import (
    DEFAULT,
    PLAIN,
    STUDENT,
    TEACHER,
    VARIANTS,
    BenchmarkSetup,
    StepTiming,
    variants_for,
)
from distillers.training.peak_memory import step_peak_mib

CPU = torch.device("cpu")


def row(ms, first_s=0.0):
    return StepTiming(ms, ms / 100, ms / 100, ms / 100, first_s)


ROWS = {STUDENT: row(40), TEACHER: row(60), PLAIN: row(100), DEFAULT: row(90)}
ROWS |= {"compiled": row(80, 60), "cached": row(36), "cached compiled": row(30, 30)}


def test_hours_are_those_of_every_step():
    training = TrainingLength(steps=1000, epochs=10, views=4)
    seconds = {name: 3600 * training.hours(ROWS, name) for name in ROWS if name in VARIANTS}
    assert seconds[PLAIN] == pytest.approx(1000)
    assert seconds[DEFAULT] == pytest.approx(900)
    assert seconds["compiled"] == pytest.approx(60 + 800)
    assert seconds["cached"] == pytest.approx(4 * 90 + 6 * 36)  # the teacher runs in four epochs
    assert seconds["cached compiled"] == pytest.approx(60 + 4 * 80 + 30 + 6 * 30)


def test_fewer_epochs_than_views_read_nothing():
    training = TrainingLength(steps=1000, epochs=2, views=4)
    assert 3600 * training.hours(ROWS, "cached") == pytest.approx(180)


def test_advice_is_the_fastest_that_can_be_asked_for():
    training = TrainingLength(steps=1000, epochs=100, views=4)
    hours = {PLAIN: 1.0, DEFAULT: 9.0, "compiled": 8.5}
    assert advice(hours, training, 0) == "--compile: 8.5 hours instead of 9.0"
    assert "leave the flags" in advice({**hours, "compiled": 9.5}, training, 0)
    told = advice({**hours, "cached": 3.0}, training, 10_400_000)
    assert told.startswith("--teacher_cache auto --views 4: 3.0 hours instead of 9.0")
    assert "41.6 MB" in told
    assert told.endswith("with a new view in each epoch --compile, 8.5 hours")


def test_the_tables_have_every_method_and_variant():
    figures = Measurements({"kd": ROWS, "at": ROWS}, {}, {"kd": 10, "at": 20})
    text = "\n".join(lines(figures, TrainingLength(10, 2, 1)))
    assert text.count("0.360") == 2
    assert "student step 40.0 ms, teacher forward 60.0 ms" in text
    assert "in MiB" not in text


def test_variants_are_those_that_the_device_supports(monkeypatch):
    assert variants_for(CPU, compiled=False) == ["plain", "default", "cached", "bf16"]
    assert variants_for(CPU, compiled=True) == list(VARIANTS)
    monkeypatch.setattr("distillers.training.benchmark.candidates", lambda _: ("fp32", "fp16"))
    assert variants_for(CPU, compiled=False) == ["plain", "default", "cached"]


def test_the_command_measures_the_pair_that_is_asked_for(tmp_path, capsys):
    out = tmp_path / "figures.json"
    flags = ["--model_t", "resnet14", "--model_s", "resnet8", "--methods", "kd"]
    flags += [
        "AT",  # names may be in any letters
        "--rounds",
        "1",
        "--batch_size",
        "4",
        "--image_size",
        "16",
        "--num_images",
        "40",
    ]
    flags += ["--num_classes", "5", "--epochs", "2", "--gpu_id", "cpu", "--memory"]
    assert cli.run("bench", [*flags, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "hours of 2 epochs of 10 steps" in told
    results = json.loads(out.read_text())["results"]
    for method in ("kd", "at"):
        rows = results["rows"][method]
        assert set(rows) == {STUDENT, TEACHER, PLAIN, DEFAULT, "cached", "bf16"}
        assert all(each["ms"] > 0 for each in rows.values())
    logits = 40 * (2 * 5 + 8)
    maps = 40 * sum(2 * size + 8 for size in (16 * 16 * 16, 32 * 8 * 8, 64 * 4 * 4))
    assert results["cache_bytes"] == {"kd": logits, "at": maps}


def test_a_peak_is_that_of_the_step_alone(tmp_path):
    ballast = torch.ones(2**27)  # half a GiB in this process, which is none of the step's
    build = partial(models.create, num_classes=10)
    setup = BenchmarkSetup(
        partial(build, "resnet8"),
        partial(build, "resnet8"),
        batch_size=64,
        num_images=100,
        num_classes=10,
    )
    small = step_peak_mib(replace(setup, batch_size=8), "kd", DEFAULT, tmp_path)
    large = step_peak_mib(setup, "kd", DEFAULT, tmp_path)
    assert ballast.sum() > 0
    assert 0 < small < large < 400


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--methods", "kdd"], "'kdd'"),
        (["--model_s", "resnet9"], "'resnet9'"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--path_t", "nowhere.pth"], "nowhere.pth"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_what_cannot_be_measured_is_named(flags, words, capsys):
    assert cli.run("bench", flags) == 2
    assert words in capsys.readouterr().err


def test_the_plain_step_alone_gets_no_advice(capsys):
    flags = ["--model_t", "resnet8", "--model_s", "resnet8", "--batch_size", "2", "--rounds", "1"]
    flags += ["--methods", "kd", "--variants", "plain", "--gpu_id", "cpu", "--epochs", "1"]
    assert cli.run("bench", flags) == 0
    assert "instead of" not in capsys.readouterr().out

"""The demo in small: one seed, two methods."""

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_rel

from distillers.cli import demo
from distillers.cli import main as cli
from distillers.cli.commands.demo import table
from distillers.distillation.recipes import ELEVEN

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_shows_a_teacher_that_helps(tmp_path, capsys):
    """The student with KD beats the student alone; the command that it names works."""
    out = str(tmp_path / "out")
    assert cli.run("demo", ["--methods", "kd", "--seeds", "1", "--out", out]) == 0
    text = capsys.readouterr().out
    accuracy = {
        line.split()[1]: float(line.split()[2]) for line in text.splitlines() if "resnet8 " in line
    }
    assert accuracy["kd"] > accuracy["alone"] + 3
    assert (tmp_path / "out/demo.png").read_bytes().startswith(b"\x89PNG")
    assert "the student with kd is" in text
    words = text.splitlines()[-1].removeprefix("next: distillers ").split()
    assert cli.run(words[0], words[1:]) == 0
    found = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:5])
    assert float(found["test_acc"]) == pytest.approx(accuracy["kd"], abs=0.11)  # of one image


def test_intervals_are_those_of_scipy_and_gains_are_paired():
    alone = demo.Result("alone", [80.0, 82.0, 77.0])
    kd = demo.Result("kd", [88.0, 89.5, 86.0])
    expected = ttest_rel(kd.accuracies, alone.accuracies).confidence_interval(0.95)
    gain = demo.paired_gain(kd, alone)
    assert gain.interval == pytest.approx((expected.low, expected.high))
    assert gain.mean == pytest.approx((8 + 7.5 + 9) / 3)
    assert demo.SampleStats([1.0]).interval is None


def test_a_method_that_does_not_win_is_named():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    results = [
        demo.Result("alone", [80.0, 82.0], net=net),
        demo.Result("kd", [81.0, 80.0], net=net),
    ]
    text = table(demo.Result("teacher", [98.0], net=net), results, 8)
    assert "Not better than the student alone here: kd." in text
    assert "81.0 ± 1.4" in text
    assert "-0.5 [" in text


def test_the_factors_are_those_that_the_rule_chooses():
    """Of `benchmarks/demo_weights.py`: the best mean accuracy on held-out training digits."""
    measured = json.loads((ROOT / "benchmarks/results/demo_weights.json").read_text())
    assert set(demo.FACTORS) == set(ELEVEN) - {"kd"}
    for method, factor in demo.FACTORS.items():
        means = {}
        for key, accuracy in measured.items():
            name, _, tried, *_ = key.split()
            if name == method:
                means.setdefault(float(tried), []).append(accuracy)
        assert len(means) >= 3
        assert max(means, key=lambda f: sum(means[f])) == factor


def test_labelled_rows_are_balanced_and_depend_on_the_seed():
    labels = torch.arange(200) % 10
    rows = [demo._balanced_rows(labels, 50, seed) for seed in (0, 0, 1)]
    assert labels[rows[0]].bincount().tolist() == [5] * 10
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize(
    "flags", [["--methods", "kdd"], ["--seeds", "0"], ["--all", "--methods", "kd"]]
)
def test_bad_flags_are_refused(flags):
    assert cli.run("demo", flags) == 2

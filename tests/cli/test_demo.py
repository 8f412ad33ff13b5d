"""The demo in small: one seed, two methods."""

import pytest
import torch

from distillers.cli import demo
from distillers.cli import main as cli
from distillers.cli.commands.demo import table


def test_the_demo_shows_a_teacher_that_helps(tmp_path, capsys, monkeypatch):
    """The student with KD beats the student alone: the claim that the demo makes."""
    assert cli.run("demo", ["--methods", "kd", "--seeds", "1", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    accuracy = {
        line.split()[1]: float(line.split()[2]) for line in text.splitlines() if "resnet8 " in line
    }
    assert accuracy["kd"] > accuracy["alone"] + 3
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_method_that_does_not_win_is_named():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    results = [
        demo.Result("alone", [80.0, 82.0], net=net),
        demo.Result("kd", [81.0, 80.0], net=net),
    ]
    text = table(demo.Result("teacher", [98.0], net=net), results, 8)
    assert "Not better than the student alone here: kd." in text
    assert "81.0 ± 1.4" in text


def test_labelled_rows_are_balanced_and_depend_on_the_seed():
    labels = torch.arange(200) % 10
    rows = [demo._balanced_rows(labels, 50, seed) for seed in (0, 0, 1)]
    assert labels[rows[0]].bincount().tolist() == [5] * 10
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("flags", [["--methods", "kdd"], ["--seeds", "0"]])
def test_bad_flags_are_refused(flags):
    assert cli.run("demo", flags) == 2

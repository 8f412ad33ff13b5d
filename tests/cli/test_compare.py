"""`distillers compare`, against a second derivation from the files of `distillers evaluate`."""

import csv
import json
import math
import re

import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.cli.commands.compare import CompareConfig, check_limits
from distillers.data.batch import Batch
from distillers.errors import LimitExceededError
from distillers.report.comparison import compare, mcnemar
from distillers.training.predictions import Predictions

CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 32, "dataset": "digits"}
CARD |= {"mean": [0.3], "std": [0.4], "class_names": [str(n) for n in range(10)]}


def save(path, seed, **card):
    torch.manual_seed(seed)
    state = models.create("resnet8", num_classes=10).state_dict()
    checkpoint.save(path, {"model": state, "card": CARD | card})
    return str(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [save(folder / f"{name}_best.pth", seed) for seed, name in enumerate(("old", "new"))]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def exact_p(won, lost):
    """Sum the probabilities of all results that are not more probable than the one seen."""
    n = won + lost
    chances = [math.comb(n, k) * 0.5**n for k in range(n + 1)]
    return min(1.0, sum(p for p in chances if p <= chances[won] * (1 + 1e-9)))


@pytest.mark.parametrize("won", [0, 1, 3, 7, 10, 40])
@pytest.mark.parametrize("lost", [0, 2, 9, 60])
def test_mcnemar_is_the_exact_test(won, lost):
    assert mcnemar(won, lost) == pytest.approx(exact_p(won, lost), rel=1e-9)


def test_all_figures_are_those_of_the_predictions(pair, tmp_path, capsys):
    out = tmp_path / "gate"
    assert cli.run("compare", [*pair, "--out", str(out), "--max_drop", "100"]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("within the limits")
    found = json.loads((out / "comparison.json").read_text())
    tables, metrics = [], []
    for number, path in enumerate(pair):
        files = [tmp_path / f"{number}.csv", tmp_path / f"{number}.json"]
        assert cli.run("evaluate", [path, "--csv", str(files[0]), "--json", str(files[1])]) == 0
        tables.append(rows_of(files[0]))
        metrics.append(json.loads(files[1].read_text())["metrics"])
    for name, expected in zip(("old", "new"), metrics, strict=True):
        for metric in ("test_acc", "balanced_acc", "ece"):
            assert found[name][metric] == expected[metric]
        assert found[name]["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-6)
    right = [[r["label"] == r["prediction"] for r in rows] for rows in tables]
    pairs = list(zip(*right, strict=True))
    won, lost = pairs.count((False, True)), pairs.count((True, False))
    assert won > 0
    assert lost > 0
    assert (found["won"], found["lost"]) == (won, lost)
    assert found["mcnemar_p"] == pytest.approx(exact_p(won, lost), rel=1e-9)
    assert found["negative_flips"] == 100 * lost / 500
    assert found["change"] == pytest.approx(metrics[1]["test_acc"] - metrics[0]["test_acc"])
    for each in found["classes"]:
        rows = [n for n, row in enumerate(tables[0]) if row["label"] == each["class"]]
        before, after = (100 * sum(r[n] for n in rows) / len(rows) for r in right)
        assert each["old"] == pytest.approx(before)
        assert each["new"] == pytest.approx(after)
        assert each["change"] == pytest.approx(after - before)
        assert each["from"] < each["change"] < each["to"]
    worst = min(found["classes"], key=lambda row: row["change"])
    assert found["classes"][0] == worst
    assert found["largest_class_drop"]["points"] == -worst["change"]
    flips = rows_of(out / "flips.csv")
    expected = {tables[0][n]["path"] for n, both in enumerate(pairs) if both == (True, False)}
    assert {row["path"] for row in flips if row["change"] == "lost"} == expected
    assert len(flips) == won + lost
    assert (out / "changed_hands.png").read_bytes().startswith(b"\x89PNG")
    assert set(found["latency_ms"]) == {"old", "new"}


def predictions(labels, classes):
    seen = Predictions()
    batch = Batch(torch.empty(0), labels, torch.arange(len(labels)))
    seen.add(batch, torch.eye(3)[classes])
    return seen


@pytest.mark.parametrize(
    ("flag", "figure", "words"),
    [
        ("max_drop", 10.0, "10.00 points of accuracy lost"),
        ("max_negative_flips", 20.0, "20.00 % of the images lost"),
        ("max_class_drop", 40.0, "40.00 points of recall lost by class b"),
    ],
)
def test_limits_are_checked(flag, figure, words):
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    before = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    after = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = compare(predictions(labels, before), predictions(labels, after), ("a", "b", "c"))
    check_limits(CompareConfig(old="o", new="n", **{flag: figure}), found)  # equal is allowed
    with pytest.raises(LimitExceededError, match=re.escape(words)):
        check_limits(CompareConfig(old="o", new="n", **{flag: figure - 0.1}), found)


def test_a_limit_that_is_exceeded_is_a_status(pair, capsys):
    assert cli.run("compare", [*pair, "--max_negative_flips", "0.1"]) == 1
    assert "--max_negative_flips is 0.1" in capsys.readouterr().err


def test_a_network_against_itself_changes_nothing(pair, capsys):
    limits = ["--max_drop", "0", "--max_negative_flips", "0", "--max_class_drop", "0"]
    assert cli.run("compare", [pair[0], pair[0], *limits]) == 0
    printed = capsys.readouterr().out
    assert "mcnemar_p       1 (exact)" in printed


def test_images_of_other_classes_are_refused(pair, tmp_path, capsys):
    other = save(tmp_path / "a_best.pth", 0, class_names=["zero", *CARD["class_names"][1:]])
    assert cli.run("compare", [pair[0], other]) == 2
    assert "its class 0 is zero, that of these images 0" in capsys.readouterr().err

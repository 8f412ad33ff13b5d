"""An audit finds wrong labels, and its page and its JSON have the same numbers."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distillers import data
from distillers.cli import main as cli
from distillers.data.loaders.memory import Loader
from distillers.report.audit import audit, calibrating_temperature, pictures, render_audit
from distillers.training.evaluate import score
from distillers.training.predictions import Predictions
from distillers.training.probe import NearestNeighbors
from tests.cli.test_evaluate import save

CPU = torch.device("cpu")
FLIPPED = [3, 77, 142, 300, 411]


@pytest.fixture(scope="module")
def source():
    """Digits of which five test labels are wrong."""
    digits = data.source_of("digits")
    labels = digits.test_labels.clone()
    labels[FLIPPED] = (labels[FLIPPED] + 5) % 10
    return replace(digits, test_labels=labels)


def teacher(source, neighbors):
    bank = next(iter(_whole(source).epoch(1)))
    return nn.Sequential(
        nn.Flatten(), NearestNeighbors(bank.images.flatten(1), bank.labels, 10, neighbors=neighbors)
    )


def _whole(source):
    size = len(source.train_labels)
    return Loader(
        source.train_images, source.train_labels, batch_size=size, mean=source.mean, std=source.std
    )


@pytest.fixture(scope="module")
def seen(source):
    found = []
    for neighbors in (5, 40):
        each = Predictions()
        net = teacher(source, neighbors)
        score(net, source.test_loader(CPU).epoch(1), on_batch=each.add)
        found.append(each)
    return found


def test_flipped_labels_are_found(source, seen):
    found = audit(["five", "forty"], seen, source)
    rows = [each["row"] for each in found["suspects"]]
    assert set(FLIPPED) <= set(rows[:20])
    first = next(each for each in found["suspects"] if each["row"] == 77)
    assert first["image"] == "digits/test/77"
    assert first["label"] == source.class_names[int(source.test_labels[77])]
    assert first["label_probability"] < first["confidence"]


def test_the_figures_are_those_of_a_second_derivation(source, seen):
    found = audit(["five", "forty"], seen, source)
    labels = source.test_labels
    first, second = (each.logits().argmax(1) for each in seen)
    assert found["teachers"][0]["accuracy"] == pytest.approx(100 * sum(first == labels) / 500)
    assert found["agreement"][0][1] == pytest.approx(100 * float((first == second).sum()) / 500)
    assert found["agreement"][0][0] == 100
    mean = sum(each.logits().double().softmax(1) for each in seen) / 2
    right = 100 * float((mean.argmax(1) == labels).double().mean())
    assert found["together"]["accuracy"] == pytest.approx(right)
    row = found["teachers"][1]["classes"][4]
    mine = labels == 4
    sure = seen[1].probabilities()[mine].max(1).values.mean()
    assert row["confidence"] == pytest.approx(100 * float(sure))
    assert row["support"] == int(mine.sum())


def test_the_temperature_is_that_of_the_lowest_loss():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(200, 4).double(), torch.randint(4, (200,))
    logits[torch.arange(200), labels] += 4
    grid = [0.05 * 1.02**n for n in range(300)]
    losses = [float(F.cross_entropy(logits / t, labels)) for t in grid]
    best = grid[losses.index(min(losses))]
    assert calibrating_temperature(logits, labels) == pytest.approx(best, rel=0.02)
    assert calibrating_temperature(4 * logits, labels) == pytest.approx(4 * best, rel=0.02)
    sure = 5 * F.one_hot(labels, 4).double()
    assert calibrating_temperature(sure, labels) < 0.2


def test_the_page_shows_the_pictures_and_the_numbers(source, seen):
    found = {"split": "test", **audit(["five", "forty<b>"], seen, source)}
    rows = [each["row"] for each in found["suspects"]]
    images = pictures(source, rows, CPU)
    assert sorted(images) == sorted(rows)
    assert torch.equal(images[rows[0]][0], source.test_images[rows[0]][0])
    page = render_audit(found, images)
    assert page.count("data:image/png;base64") == len(rows)
    assert "forty<b>" not in page
    for each in found["teachers"]:
        for number in (
            f"{each['accuracy']:.2f}",
            f"{each['ece']:.4f}",
            f"{each['temperature']:.3f}",
        ):
            assert number in page


@pytest.mark.parametrize("split", ["test", "train"])
def test_the_command_writes_both(split, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = save(tmp_path / "one", 0), save(tmp_path / "other", 1)
    flags = ["--data_dir", "data", "--split", split]
    assert cli.run("audit", [str(one), str(other), *flags]) == 0
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["images"] == {"test": 500, "train": 1297}[split]
    assert len(found["suspects"]) == 48
    assert f"digits/test/{found['suspects'][0]['row']}" == found["suspects"][0]["image"]
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert f"{found['together']['unanimous']:.2f} %" in page
    printed = capsys.readouterr().out
    assert "no better than chance" in printed
    assert f"{found['teachers'][0]['accuracy']:.2f} % right" in printed


def test_teachers_by_name_get_a_head_or_a_map(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "tests.cli.test_teachers:published"  # of five classes
    flags = ["--dataset", "digits"]
    assert cli.run("audit", [name, *flags]) == 2
    assert "has 5 classes, the data set has 10; add --teacher_head fit" in capsys.readouterr().err
    assert cli.run("audit", [name, name, *flags, "--teacher_head", "fit"]) == 0
    assert "ridge regression, strength" in capsys.readouterr().out
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["teachers"][0]["accuracy"] > 50
    assert found["together"]["unanimous"] == 100
    (tmp_path / "map.yml").write_text("".join(f"'{n}': ['{n % 5}']\n" for n in range(5)))
    assert cli.run("audit", [name, *flags, "--class_map", "map.yml", "--out", "mapped"]) == 0
    assert "class map: " in capsys.readouterr().out
    assert cli.run("audit", [name, *flags, "--teacher_head", "none"]) == 2
    assert "leaves tests.cli.test_teachers:published no classes" in capsys.readouterr().err
    assert cli.run("audit", [name]) == 2
    assert "does not name its data set; give it with --dataset" in capsys.readouterr().err


def test_what_cannot_be_audited_is_named(tmp_path, capsys):
    assert cli.run("audit", []) == 2
    assert cli.run("audit", [str(tmp_path / "no.pth")]) == 2
    assert "no.pth" in capsys.readouterr().err

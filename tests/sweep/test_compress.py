"""`distillers compress`: limits, plan, choice, and the whole command, killed again and again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distillers import data, models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.data.batch import Batch
from distillers.errors import InputError
from distillers.sweep import candidates, finish, halving
from distillers.sweep.candidates import Limits, Measured
from distillers.sweep.executors.local import Slots
from distillers.sweep.finish import Row, choose, wilson
from distillers.sweep.halving import Plan, Rung, Trained, make_rungs, within_limits
from distillers.training.predictions import Predictions
from tests.run_folders import corrupt

SMALL = Measured("small", 1.0, 1_000_000, 10_000_000, 250_000, 0.001)
LARGE = Measured("large", 4.0, 8_000_000, 90_000_000, 2_000_000, 0.004)
BROKEN = Measured("broken", problem="this network cannot be written as ONNX: aten.odd")


def test_candidates_within_the_limits_are_kept():
    every = [SMALL, LARGE, BROKEN]
    assert within_limits(every, Limits(latency_ms=2.0)) == [SMALL]
    assert within_limits(every, Limits(mb=8.0)) == [SMALL, LARGE]
    assert within_limits(every, Limits(macs=89.0)) == [SMALL]
    with pytest.raises(InputError, match=r"the nearest is small: latency_ms 1 of 0.5"):
        within_limits(every, Limits(latency_ms=0.5))
    with pytest.raises(InputError, match=r"no candidate can be used.*aten.odd"):
        within_limits([BROKEN], Limits(mb=1.0))


def test_every_rung_has_the_same_share_of_the_budget():
    within = [replace(SMALL, name=str(n)) for n in range(8)]
    names, rungs, minutes = make_rungs(within, 1000, 12.0, 0.001)  # 2 s an epoch
    assert names == [str(n) for n in range(8)]
    assert rungs == [Rung(8, 15), Rung(4, 30), Rung(2, 60)]
    assert minutes == pytest.approx(12.0)


def test_candidates_are_left_out_until_an_epoch_of_each_fits():
    within = [replace(SMALL, name=str(n)) for n in range(8)]
    names, rungs, _ = make_rungs(within, 1000, 0.2, 0.001)
    assert names == ["0", "1", "2"]
    assert [rung.size for rung in rungs] == [3, 2]
    assert make_rungs(within, 1000, 1e-3, 0.001)[0] == ["0", "1"]


def test_default_candidates_exist_and_begin_with_the_teachers_family():
    import timm
    import torchvision

    names = candidates.default_candidates("timm:resnet50", 224)
    assert 18 <= len(names) <= 24
    for name in names:
        kind, _, rest = name.partition(":")
        assert (
            rest in timm.list_models(rest) if kind == "timm" else hasattr(torchvision.models, rest)
        )
    assert names[0] == "timm:resnet10t"
    small = candidates.default_candidates("wrn_40_2", 32)
    assert set(small) <= set(models.names())
    assert small[0] == "wrn_16_1"
    assert "wrn_40_2" not in small


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = Plan({"trial": 0}, 8.0, [SMALL, BROKEN], ["small"], [Rung(1, 3)], 2.0)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    content = (tmp_path / "plan.json").read_bytes()
    rng, messages = random.Random(0), []
    for damaged in [b"{", b"[]", b"[" * 10**5, b"{}", *(corrupt(content, rng) for _ in range(40))]:
        (tmp_path / "plan.json").write_bytes(damaged)
        try:
            assert Plan.load(tmp_path / "plan.json") == plan  # white space has changed
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert all("damaged" in text or "no checksum" in text for text in messages)


def test_intervals_are_wilsons():
    """Wilson, 1927: the roots of (p - x)^2 = z^2 x (1 - x) / n."""
    low, high = wilson(80.0, 50)
    for end in (low / 100, high / 100):
        assert (0.8 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 50, rel=1e-5)


def predictions(right, count=200):
    seen = Predictions()
    batch = Batch(torch.empty(0), torch.zeros(count, dtype=torch.int64), torch.arange(count))
    classes = torch.ones(count, dtype=torch.int64)
    classes[:right] = 0
    seen.add(batch, torch.eye(2)[classes])
    return seen


class Source:
    class_names = ("a", "b")


@pytest.mark.parametrize(
    ("right", "chosen", "words"),
    [(150, "slow", "is more accurate than fast"), (183, "fast", "do not differ significantly")],
)
def test_the_faster_of_two_that_are_alike_is_chosen(right, chosen, words):
    rest = (0.0, 0.0, "test")
    slow = Row("slow", 92.5, *rest, 9.0, 1, 1, 1, 1.0)
    fast = Row("fast", right / 2, *rest, 3.0, 1, 1, 1, 1.0)
    seen = {"slow": predictions(185), "fast": predictions(right)}
    row, why = choose([fast, slow], seen, Source())
    assert row.name == chosen
    assert words in why


def teacher(folder):
    torch.manual_seed(0)
    source = data.source_of("digits")
    card = {"format": 1, "model": "resnet14", "num_classes": 10, "image_size": 32}
    card |= {"dataset": "digits", "mean": list(source.mean), "std": list(source.std)}
    net = models.create("resnet14", num_classes=10)
    path = folder / "resnet14_best.pth"
    checkpoint.save(path, {"model": net.state_dict(), "card": card})
    return str(path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give a limit"),
        (["--max_mb", "0"], "--max_mb is 0"),
        (["--max_macs", "1", "--candidates", "resnet8"], "the nearest is resnet8: macs 12.5 of 1"),
    ],
)
def test_flags_that_cannot_be_met_are_refused(flags, words, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    given = ["--path_t", teacher(tmp_path), "--out", str(tmp_path / "out"), *flags]
    assert cli.run("compress", given) == 2
    assert words in capsys.readouterr().err


def test_networks_with_published_weights_start_from_them_and_go_on_from_their_own(tmp_path):
    plan = Plan({"pretrained": True}, 8.0, [], ["timm:lcnet_050", "resnet8"], [], 2.0)
    assert halving._start(plan, "timm:lcnet_050", None) == {"pretrained": "published"}
    assert halving._start(plan, "resnet8", None) == {}
    before = Trained("timm:lcnet_050", tmp_path, 50.0, 1, 3, 1.0)
    own = str(tmp_path / "timm-lcnet_050_best.pth")
    assert halving._start(plan, "timm:lcnet_050", before) == {"pretrained": own}
    assert halving._start(replace(plan, flags={}), "timm:lcnet_050", None) == {}


def test_published_weights_are_fetched_before_training(monkeypatch, capsys):
    fetched = []

    def create(name, num_classes, image_size, pretrained):
        fetched.append((name, num_classes, pretrained))
        if name == "timm:unknown":
            raise InputError(f"no weights of {name}")

    monkeypatch.setattr(candidates.models, "create", create)
    source = data.source_of("digits")
    candidates.fetch_weights(["timm:lcnet_050", "resnet8"], source)
    assert fetched == [("timm:lcnet_050", 10, True)]
    assert capsys.readouterr().out == "1 of 2 candidates start from published weights\n"
    with pytest.raises(InputError, match="no weights of timm:unknown"):
        candidates.fetch_weights(["timm:unknown"], source)


def test_the_seed_of_the_command_is_that_of_its_runs(tmp_path, monkeypatch):
    grids = []

    def stop(grid):
        grids.append(grid)
        raise InputError("stopped")

    monkeypatch.setattr(halving, "expand", stop)
    plan = Plan({"trial": 7}, 8.0, [SMALL], ["small"], [Rung(1, 3)], 2.0)
    with pytest.raises(InputError, match="stopped"):
        halving.train(plan, "teacher.pth", tmp_path, {}, Slots(("cpu",), 1))
    assert grids[0].trials == (7,)


@pytest.mark.parametrize(
    ("fraction", "images", "count"), [(0.1, "held out", 130), (0.0, "test", 500)]
)
def test_the_interval_of_a_network_left_behind_is_of_the_images_that_scored_it(
    fraction, images, count
):
    flags = {"trial": 0, "val_fraction": fraction}
    plan = Plan(flags, 8.0, [SMALL], ["small"], [Rung(1, 3)], 2.0)
    row = finish._other_row(Trained("small", Path(), 90.0, 1, 3, 2.0), plan, data.load("digits"))
    assert row.images == images
    assert (row.low, row.high) == finish.wilson(90.0, count)


def test_a_folder_of_other_flags_is_refused(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    flags = {"path_t": teacher(tmp_path), "minutes": 5.0}
    plan = Plan(flags, 8.0, [SMALL], ["small"], [Rung(1, 3)], 2.0)
    plan.save(tmp_path / "plan.json")
    given = ["--path_t", flags["path_t"], "--out", str(tmp_path), "--max_mb", "1"]
    assert cli.run("compress", given) == 2
    assert "continue it with the same flags" in capsys.readouterr().err


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_compression_makes_the_same_choice_and_trains_nothing_twice(tmp_path):
    pytest.importorskip("onnxruntime")
    words = [sys.executable, "-m", "distillers", "compress", "--path_t", teacher(tmp_path)]
    words += ["--max_mb", "2", "--candidates", "resnet8", "resnet14", "resnet8x4"]
    words += ["--minutes", "0.2", "--out", "out", "--num_workers", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    rng, out = random.Random(0), tmp_path / "out"
    for _ in range(3):
        process = subprocess.Popen(words, cwd=tmp_path, env=environment)
        while process.poll() is None and not (out / "plan.json").exists():
            time.sleep(0.2)
        time.sleep(rng.uniform(0, 15))
        process.send_signal(signal.SIGKILL)
        process.wait()
    plan = (out / "plan.json").read_text()
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    assert (out / "plan.json").read_text() == plan
    found = json.loads((out / "compress.json").read_text())
    for folder in (out / "save/students/models").iterdir():
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        epochs = [row["epoch"] for row in rows]
        assert epochs == sorted(set(epochs))  # each once
    changed = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    assert changed == {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}
    again = json.loads((out / "compress.json").read_text())
    accuracies = [[(n["name"], n["accuracy"]) for n in f["networks"]] for f in (found, again)]
    assert accuracies[0] == accuracies[1]
    page = (out / "index.html").read_text()
    for network in again["networks"]:  # table, page and JSON have the same numbers
        assert f"<td>{network['accuracy']}<td>" in page
    assert again["chosen"] in page
    (row,) = (network for network in again["networks"] if network["name"] == again["chosen"])
    assert row["file_bytes"] == (out / "student.onnx").stat().st_size <= 2e6

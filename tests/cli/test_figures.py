"""`distillers figures` on digits, with several kinds of networks."""

import csv

import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.distillation.build import distil

KINDS = ("correlation", "mean_logits", "tsne", "cka", "reliability", "class_gain")
CARD = {"format": 1, "model": "resnet8", "num_classes": 10, "image_size": 16, "dataset": "digits"}
CARD |= {"mean": [0.3], "std": [0.4]}
FLAGS = ["--gpu_id", "cpu", "--num_images", "100"]


def network(seed, name="resnet8"):
    torch.manual_seed(seed)
    net = models.create(name, num_classes=10)
    net(torch.randn(16, 3, 16, 16))
    return net.eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A KD run folder, a student for images of another size, SimKD's student, and a teacher."""
    folder = tmp_path_factory.mktemp("home")
    teacher, student = network(0, "resnet14"), network(1)
    deployed = distil(
        network(2), teacher, {"simkd": 1.0}, images=torch.randn(2, 3, 16, 16)
    ).deployed()
    for name, net, card in (
        ("teacher", teacher, CARD | {"model": "resnet14"}),
        ("alone", student, CARD | {"image_size": 8}),
        ("kd_run/resnet8_best", network(3), CARD),
        ("simkd", deployed, CARD | {"deploy": deployed.card}),
    ):
        path = folder / f"{name}.pth"
        path.parent.mkdir(exist_ok=True)
        checkpoint.save(path, {"model": net.state_dict(), "card": card})
    (folder / "kd_run" / "config.json").write_text('{"distill": null, "loss": null}')
    return folder


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_figure_of_every_kind_of_network(there, capsys):
    words = ["kd_run", "reused=simkd.pth", "--path_t", "teacher.pth"]
    words += ["--baseline", "alone=alone.pth", *FLAGS]
    assert cli.run("figures", [*words, "--out", "all"]) == 0
    names = [*KINDS, "changed_hands_kd", "changed_hands_reused"]
    made = {path.name for path in (there / "all").iterdir()}
    expected = {f"{name}.{form}" for name in names for form in ("png", "pdf", "csv")}
    assert made == expected | {"captions.md"}
    captions = (there / "all" / "captions.md").read_text()
    assert all(f"**{name}**: " in captions for name in names)
    assert "This is what public scripts call a correlation matrix; it is none" in captions
    students = {row["network"] for row in rows(there / "all" / "correlation.csv")}
    assert students == {"alone", "kd", "reused"}
    places = {row["student_place"] for row in rows(there / "all" / "cka.csv")}
    assert {"stage 1", "pooled", "logits"} <= places
    # the accuracy is that of `distillers evaluate`
    capsys.readouterr()
    assert cli.run("evaluate", ["simkd.pth", "--image_size", "16", "--gpu_id", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.split()[:2] for line in lines if line.startswith("correct"))
    bins = [r for r in rows(there / "all" / "reliability.csv") if r["network"] == "reused"]
    right = sum(int(r["images"]) * float(r["accuracy"] or 0) for r in bins)
    assert round(right) == int(printed["correct"])


def test_figures_without_a_reference_are_skipped_with_a_message(there, capsys):
    words = ["kd_run", *FLAGS, "--out", "some", "--kinds", "reliability"]
    assert cli.run("figures", words) == 0
    assert {p.name for p in (there / "some").glob("*.png")} == {"reliability.png"}
    assert cli.run("figures", ["kd_run", *FLAGS, "--out", "rest"]) == 0
    printed = capsys.readouterr().out
    assert "cka is left out: it compares with a teacher, --path_t TEACHER" in printed
    assert "class_gain is left out: it compares with a baseline, --baseline NETWORK" in printed
    assert {p.name for p in (there / "rest").glob("*.png")} == {"reliability.png", "tsne.png"}


def test_a_name_may_contain_math_syntax(there):
    words = [r"r$\x$=kd_run", *FLAGS, "--out", "dollars", "--kinds", "reliability"]
    assert cli.run("figures", words) == 0
    assert (there / "dollars" / "reliability.pdf").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch_export", "onnx"])
def test_an_exported_program_only_has_logits(form, there, capsys):
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    path = {"torch_export": "net.pt2", "onnx": "net.onnx"}[form]
    assert cli.run("export", ["kd_run", "--format", form, "--out", path]) == 0
    words = [f"program={path}", "--path_t", "teacher.pth", "--baseline", "kd_run", *FLAGS]
    kinds = "correlation,reliability,class_gain,changed_hands"
    assert cli.run("figures", [*words, "--kinds", kinds, "--out", form]) == 0
    table = rows(there / form / "class_gain.csv")
    assert {(row["won"], row["lost"]) for row in table} == {("0", "0")}
    for kind, said in (("tsne", "pooled features"), ("cka", "stage maps")):
        assert cli.run("figures", [*words, "--kinds", kind, "--out", form]) == 2
        assert f"{kind} cannot be plotted: program has no {said}" in capsys.readouterr().err
    assert cli.run("figures", [*words, "--out", "rest_" + form]) == 0
    assert "cka is left out: program has no stage maps" in capsys.readouterr().out


WRONG = {
    "": "no network is named",
    "kd_run --kinds correlaton": "no figure 'correlaton', did you mean 'correlation'",
    "kd_run --kinds cka": "cka compares with a teacher, --path_t TEACHER",
    "kd_run --kinds class_gain": "class_gain compares with a baseline",
    "kd_run --num_images 3": "--num_images is 3; it must be at least 50",
    "kd_run --seed -1": "--seed is -1; it must be in 0 to 4294967295",
    "kd_run kd_run": "two networks are called kd; name them, as in kd-2=PATH",
    "none.pth": "there is no file none.pth",
    "seven.pth --dataset digits": "has 7 classes, the data set has 10",
}


@pytest.mark.parametrize("words", WRONG)
def test_invalid_input_is_an_error_before_anything_is_written(words, there, capsys):
    state = models.create("resnet8", num_classes=7).state_dict()
    checkpoint.save(there / "seven.pth", {"model": state, "card": CARD | {"num_classes": 7}})
    before = sorted(there.rglob("*"))
    assert cli.run("figures", [*words.split(), "--out", "stray", "--gpu_id", "cpu"]) == 2
    assert WRONG[words] in capsys.readouterr().err
    assert sorted(there.rglob("*")) == before

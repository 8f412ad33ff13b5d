"""Runs that begin with weights that are there already, and what becomes of photographs."""

import json
from pathlib import Path

import pytest
import torch

import distillers
from distillers import data, models
from distillers.checkpoints import input_adapter as inputs
from distillers.checkpoints.initial import build_initial
from distillers.cli import main as cli
from distillers.data import DecodeOptions
from distillers.data.loaders.decode import read
from distillers.errors import InputError
from tests.data.trees import WNIDS, tree

NAME = "timm:test_resnet"  # a tiny network of timm's for tests
SHARED = ["--dataset", "folder", "--data_dir", "photos", "--image_size", "32", "--gpu_id", "cpu"]
SHARED += ["--batch_size", "6", "--epochs", "1", "--num_workers", "0", "--learning_rate", "0.01"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as timm publishes them, but with other names, and the network that is in it."""
    net = models.create(NAME, num_classes=1000, image_size=32)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01)
    path = tmp_path_factory.mktemp("published") / "net-57934424.pth"
    torch.save({f"_{key}": value for key, value in net.state_dict().items()}, path)
    return path, net


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "photos")
    return tmp_path


def test_weights_are_taken_up_and_the_classifier_is_new(published, caplog, capsys):
    path, net = published
    initial = build_initial(NAME, str(path), num_classes=3, image_size=32)
    state = initial.net.state_dict()
    same = [key for key, value in net.state_dict().items() if torch.equal(value, state[key])]
    assert set(state) - set(same) == {"fc.weight", "fc.bias"}
    assert state["fc.weight"].shape[0] == 3
    assert (initial.mean, initial.std) == ([0.5] * 3, [0.5] * 3)  # as timm says of this network
    assert "taken in their order" in caplog.text
    assert "a new classifier (3 classes instead of 1000)" in capsys.readouterr().out


def test_a_classifier_of_as_many_classes_stays(published):
    path, net = published
    initial = build_initial(NAME, str(path), num_classes=1000, image_size=32)
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), initial.net.state_dict().values(), strict=True)
    )


def test_our_own_weights_of_another_size_are_refused_where_shapes_depend_on_it(tmp_path):
    for name, size, taken in (("timm:test_vit", 64, False), (NAME, 32, True)):
        net = models.create(name, num_classes=3, image_size=size)
        card = {"format": 1, "model": name, "num_classes": 3, "image_size": size}
        path = tmp_path / f"{size}.pth"
        torch.save({"model": net.state_dict(), "card": card}, path)
        if taken:
            build_initial(name, str(path), num_classes=3, image_size=48)
            continue
        with pytest.raises(InputError, match="is for images of 64 x 64, not 96 x 96"):
            build_initial(name, str(path), num_classes=3, image_size=96)


def test_weights_that_cannot_be_had_are_told(published, tmp_path):
    path, _ = published
    with pytest.raises(InputError, match="there is no file"):
        build_initial(NAME, str(tmp_path / "no.pth"), num_classes=3, image_size=32)
    with pytest.raises(InputError, match="does not fit VisionTransformer"):
        build_initial("timm:test_vit", str(path), num_classes=3, image_size=32)
    with pytest.raises(InputError, match="has no published weights"):
        build_initial("resnet8", "published", num_classes=3, image_size=32)


def test_from_published_weights_to_a_student_that_sees_what_was_scored(home, published, capsys):
    """Fine-tune, distil, evaluate and use; mean and deviation are the teacher's own."""
    teacher = [*SHARED, "--model", NAME, "--pretrained", str(published[0])]
    assert cli.run("teacher", [*teacher, "--trial", "0"]) == 0
    path = f"save/teachers/models/{NAME.replace(':', '-')}_vanilla"
    net = distillers.load(path)
    assert net.card["class_names"] == list(WNIDS)
    assert (net.card["mean"], net.card["shorter_side"]) == ([0.5] * 3, 37)
    flags = ["--path_t", f"{path}/{NAME.replace(':', '-')}_best.pth", "--model_s", "resnet8"]
    assert cli.run("student", [*SHARED, *flags, "--distill", "srrl", "--trial", "1"]) == 0
    teacher_acc = float(capsys.readouterr().out.partition("teacher: ")[2].split()[0])
    folder = next(home.glob("save/students/models/*"))
    best = json.loads((folder / "test_best_metrics.json").read_text())
    for run in (path, str(folder)):
        evaluate = [run, *SHARED[2:4], "--num_workers", "0", "--gpu_id", "cpu"]
        assert cli.run("evaluate", evaluate) == 0
        printed = capsys.readouterr().out
        seen = float(printed.partition("test_acc ")[2].split()[0])
        assert seen == right(distillers.load(run)) * 100 / 12
        loss = float(printed.partition("test_loss ")[2].split()[0])
        if run == path:
            assert seen == pytest.approx(teacher_acc, abs=0.01)
            rows = (home / path / "metrics.jsonl").read_text().splitlines()
            assert loss == json.loads(rows[0])["test_loss"]
        else:
            assert (seen, loss) == (best["test_acc"], best["test_loss"])


def right(net):
    """How many validation photographs a network that was loaded tells rightly, one by one."""
    folders = [Path("photos/val", name) for name in WNIDS]
    images = [(n, read(str(p))) for n, folder in enumerate(folders) for p in folder.iterdir()]
    with torch.no_grad():
        return sum(int(net(net.preprocess(pixels)).argmax()) == n for n, pixels in images)


def test_preprocessing_is_what_was_scored(home, published):
    source = data.source_of("folder", "photos", reading=DecodeOptions(image_size=32))
    card = {"model": "x", "mean": list(source.mean), "std": list(source.std), "image_size": 32}
    card["shorter_side"] = source.shorter_side
    scored = next(source.test_loader(torch.device("cpu")).epoch(1)).images
    paths = [source.test.paths[row] for row in range(12)]
    net = distillers.checkpoints.load.Classifier(torch.nn.Identity(), card)
    assert torch.equal(torch.cat([net.preprocess(read(p)) for p in paths]), scored)


def test_other_classes_are_refused(home):
    source = data.source_of("folder", "photos", reading=DecodeOptions(image_size=32))
    card = {"dataset": "folder", "class_names": [WNIDS[0], "n2", WNIDS[2]]}
    with pytest.raises(InputError, match="its class 1 is n2, that of these images n01443537"):
        inputs.check_classes(card, source, "net.pth")
    with pytest.raises(InputError, match="trained on cifar10 with other classes"):
        inputs.check_classes({**card, "dataset": "cifar10"}, source, "net.pth")
    told = inputs.class_mismatch({**card, "dataset": "cifar10"}, source, "net.pth")
    assert "its class 1 is n2" in told  # what an evaluation warns of
    inputs.check_classes({"dataset": "folder", "class_names": list(WNIDS)}, source, "net.pth")

"""transfer_student.py on real digits and on a small tree of images."""

import json

import pytest
import torch

from distillers import models
from distillers.checkpoints import io as checkpoint
from distillers.cli import main as cli
from distillers.distillation.build import distil
from distillers.training.recorder import RunRecorder
from tests.data.trees import WNIDS, tree

CARD = {"format": 1, "model": "resnet8", "num_classes": 7, "image_size": 16, "dataset": "cifar10"}
CARD |= {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
DIGITS = ["--dataset", "digits", "--batch_size", "256", "--epochs", "2", "--gpu_id", "cpu"]


def network(seed=0, name="resnet8"):
    """A network of seven classes whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    net = models.create(name, num_classes=7)
    net(torch.randn(16, 3, 16, 16))
    return net.eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a trained student, and one of SimKD."""
    folder = tmp_path_factory.mktemp("home")
    net = network()
    checkpoint.save(folder / "plain.pth", {"model": net.state_dict(), "card": CARD})
    images = torch.randn(2, 3, 16, 16)
    deployed = distil(net, network(1), {"simkd": 1.0}, images=images).deployed()
    card = CARD | {"deploy": deployed.card}
    checkpoint.save(folder / "simkd.pth", {"model": deployed.state_dict(), "card": card})
    body = {key: each for key, each in net.state_dict().items() if not key.startswith("fc.")}
    checkpoint.save(folder / "body.pth", {"model": body, "card": CARD | {"num_classes": 0}})
    return folder


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def transfer(there, name, *flags, path="plain.pth"):
    args = ["--path_s", path, *DIGITS, "--save_dir", name, *map(str, flags)]
    assert cli.run("transfer", args) == 0
    (folder,) = (there / name / "ft" / "models").iterdir()
    return folder


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def same_bytes(a, b):
    return a.numpy().tobytes() == b.numpy().tobytes()


CASES = {
    "linear": ([], "plain.pth"),
    "augmented": (["--augment", "--epochs", 1], "plain.pth"),
    "held_out": (["--val_fraction", 0.2], "plain.pth"),
    "public": (["--protocol", "public"], "plain.pth"),
    "finetune": (["--mode", "finetune", "--epochs", 1], "plain.pth"),
    "smaller": (["--image_size", 8], "plain.pth"),
    "without_classifier": (["--epochs", 1], "body.pth"),
    "simkd": ([], "simkd.pth"),
    "simkd_tuned": (["--mode", "finetune", "--epochs", 1], "simkd.pth"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_scores_what_was_reported(case, there, capsys):
    flags, path = CASES[case]
    folder = transfer(there, case, *flags, path=path)
    reported = json.loads((folder / "test_best_metrics.json").read_text())
    capsys.readouterr()
    assert cli.run("evaluate", [str(folder), "--gpu_id", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.split()[:2] for line in lines if line.startswith("test_"))
    for name in ("test_acc", "test_acc_top5", "test_loss"):
        assert float(printed[name]) == reported[name]
    before, after = weights(there / path), weights(folder / "resnet8_best.pth")
    assert before.keys() <= after.keys()
    changed = {k for k in after if k not in before or not same_bytes(before[k], after[k])}
    head = {"head.weight", "head.bias"} if "simkd" in case else {"fc.weight", "fc.bias"}
    statistics = {key for key in before if "running_" in key or "num_batches" in key}
    if "mode" in str(flags):
        assert changed == set(before) - statistics
    else:
        assert changed == head | (statistics if case == "public" else set())


def test_the_folder_is_a_run_and_names_what_was_done(there, capsys):
    folder = transfer(there, "named", "--trial", 3)
    said = capsys.readouterr().out
    assert "on precomputed features; BatchNorm statistics frozen" in said
    assert folder.name.startswith("resnet8_digits_linear_lr_0.05_decay_0_trial_3_")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "environment.json", "metrics.jsonl", "parameters.json"} <= names
    config = json.loads((folder / "config.json").read_text())
    assert (config["weight_decay"], config["learning_rate"]) == (0, 0.05)
    folder = transfer(there, "as_published", "--protocol", "public", "--model_s", "resnet8")
    assert "statistics updated, as published" in capsys.readouterr().out
    assert json.loads((folder / "config.json").read_text())["weight_decay"] == 5e-4


def test_the_reported_epoch_follows_the_protocol(there):
    for name, flags, rule in (
        ("last", [], "epoch"),
        ("best", ["--protocol", "public"], "test_acc"),
        ("held", ["--val_fraction", 0.2], "val_acc"),
    ):
        folder = transfer(there, f"rule_{name}", *flags, "--epochs", 4, "--learning_rate", 2)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        best = max(rows, key=lambda row: row[rule])
        assert json.loads((folder / "test_best_metrics.json").read_text())["epoch"] == best["epoch"]


def test_a_linear_probe_leaves_no_image_out(there, capsys):
    """1,297 = 8 * 162 + 1, but nothing is normalized by the batch."""
    transfer(there, "one_left", "--batch_size", 8, "--epochs", 1)
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--protocol", "public"]])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(flags, there, monkeypatch):
    flags = [*flags, "--epochs", 3]
    whole = transfer(there, f"whole{len(flags)}", *flags)
    keep = RunRecorder.on_epoch_end

    def stop(recorder, row, *rest):
        keep(recorder, row, *rest)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    name = f"stopped{len(flags)}"
    args = ["--path_s", "plain.pth", *DIGITS, "--save_dir", name, *map(str, flags)]
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_epoch_end", stop)
        assert cli.run("transfer", args) == 130
    assert cli.run("transfer", args) == 2
    folder = transfer(there, name, *flags, "--resume")
    a, b = (weights(each / "resnet8_last.pth") for each in (whole, folder))
    assert all(same_bytes(a[key], b[key]) for key in a)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_images_in_folders_are_embedded_and_bad_ones_counted(there, capsys):
    root = tree(there / "photos", train=5, val=4)
    (root / "val" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG").write_text("not an image")
    flags = ["--dataset", "folder", "--data_dir", "photos", "--num_workers", 0]
    flags += ["--on_bad_image", "skip", "--batch_size", 4]
    folder = transfer(there, "photos_run", *flags)
    reported = json.loads((folder / "test_best_metrics.json").read_text())
    capsys.readouterr()
    words = [str(folder), *map(str, flags[:6]), "--on_bad_image", "skip", "--gpu_id", "cpu"]
    assert cli.run("evaluate", words) == 0
    printed = capsys.readouterr().out
    assert "on the 11 test images of folder" in printed
    assert f"test_acc       {reported['test_acc']!r}" in printed
    assert f"test_loss      {reported['test_loss']!r}" in printed


def test_a_finetuned_network_drops_paths_in_training_only(there, capsys):
    card = CARD | {"model": "timm:test_vit", "image_size": 32}
    state = network(name="timm:test_vit").state_dict()
    checkpoint.save(there / "vit.pth", {"model": state, "card": card})
    flags = ["--mode", "finetune", "--epochs", 1, "--val_fraction", 0.8]
    plain = transfer(there, "vit_plain", *flags, path="vit.pth")
    deep = transfer(there, "vit_deep", *flags, "--drop_path", 0.5, path="vit.pth")
    before, after = (weights(each / "timm-test_vit_best.pth") for each in (plain, deep))
    assert before.keys() == after.keys()
    assert not same_bytes(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])
    reported = json.loads((deep / "test_best_metrics.json").read_text())
    capsys.readouterr()
    assert cli.run("evaluate", [str(deep), "--gpu_id", "cpu"]) == 0
    assert f"test_loss      {reported['test_loss']!r}" in capsys.readouterr().out


WRONG = {
    "": "--path_s is missing",
    "--path_s none.pth": "there is no file none.pth; its folder has body.pth, plain.pth, simkd.pth",
    "--path_s plain.pth --model_s resnet14": "is a resnet8, not a resnet14",
    "--path_s plain.pth --dataset digit": "did you mean 'digits'",
    "--path_s plain.pth --image_size 4": "--image_size is 4; it must be at least 8",
    "--path_s plain.pth --image_size 64 --protocol public": "public uses images of 32",
    "--path_s plain.pth --weight_decay -1": "--weight_decay is -1.0; it must be 0 or more",
    "--path_s net.pt2": "net.pt2 is a program",
    "--path_s large.pth --protocol public": "its weights do not fit 32 x 32",
    "--path_s squeeze.pth --image_size 64": "SqueezeNet does not end in one linear layer",
    "--path_s plain.pth --drop_path 0.1": "--drop_path acts on a backbone in training mode",
    "--path_s plain.pth --mode finetune --drop_path 0.1": "resnet8 has no stochastic depth",
    "--path_s simkd.pth --mode finetune --drop_path 0.1": "holds a resnet8 with what simkd adds",
}


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_told_before_anything_is_written(words, there, capsys):
    (there / "net.pt2").touch()
    for name, model, size in (
        ("large.pth", "ResNet50", 224),
        ("squeeze.pth", "torchvision:squeezenet1_1", 64),
    ):
        if name in words:
            card = CARD | {"model": model, "image_size": size}
            state = models.create(model, num_classes=7, image_size=size).state_dict()
            checkpoint.save(there / name, {"model": state, "card": card})
    before = sorted(there.rglob("*"))
    assert cli.run("transfer", [*DIGITS, "--save_dir", "stray", *words.split()]) == 2
    assert WRONG[words] in capsys.readouterr().err
    assert sorted(there.rglob("*")) == before
    for name in ("large.pth", "squeeze.pth"):
        (there / name).unlink(missing_ok=True)

"""Commands on a run folder use the images that the run used."""

import json

import pytest

from distillers.cli import main as cli
from distillers.config.run_files import dump_json
from distillers.config.scoring import ScoringConfig, read_run_flags
from distillers.config.transfer import TransferConfig
from distillers.errors import InputError
from tests.data.trees import tree

FLAGS = [
    *("--dataset", "folder", "--data_dir", "photos", "--val_fraction", "0.34", "--epochs", "1"),
    *("--num_workers", "1", "--image_size", "32", "--batch_size", "4", "--model", "resnet8"),
    *("--gpu_id", "cpu", "--protocol", "crd", "--lr_decay_epochs", ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which a network was trained on images without val/."""
    folder = tmp_path_factory.mktemp("start")
    root = tree(folder / "photos")
    for name in root.iterdir():
        if name.name != "train":
            name.rename(folder / name.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run("teacher", FLAGS) == 0
    return folder


@pytest.mark.parametrize("here", [True, False])
def test_evaluate_and_export_use_the_runs_own_images(folder, here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder if here else tmp_path)
    run = folder / "save/teachers/models/resnet8_vanilla"
    reported = json.loads((run / "test_best_metrics.json").read_text())["val_acc"]
    assert cli.run("evaluate", [str(run), "--gpu_id", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"val_acc        {reported!r}" in out
    where = "photos" if here else str(folder / "photos")
    assert f"with the flags of the run: --data_dir {where} --num_workers 1" in out
    assert "--val_fraction 0.34" in out
    assert cli.run("export", [str(run), "--out", str(tmp_path / "x.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "test images of folder" in out
    assert "--val_fraction 0.34" in out


def test_figures_use_the_runs_own_images(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = folder / "save/teachers/models/resnet8_vanilla"
    assert cli.run("figures", [str(run), "--kinds", "reliability", "--gpu_id", "cpu"]) == 0
    assert "with the flags of the run: --data_dir" in capsys.readouterr().out


def test_transfer_to_the_runs_own_data_set_uses_the_runs_own_images(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = folder / "save/teachers/models/resnet8_vanilla"
    flags = ["--path_s", str(run), "--dataset", "folder", "--epochs", "1", "--gpu_id", "cpu"]
    flags += ["--batch_size", "4", "--lr_decay_epochs", ""]
    assert cli.run("transfer", flags) == 0
    out = capsys.readouterr().out
    assert f"with the flags of the run: --data_dir {folder / 'photos'} --num_workers 1" in out
    assert "--val_fraction 0.34" in out
    assert "images 32 x 32" in out
    assert "SGD: learning rate 0.05, constant" in out


def test_transfer_to_other_images_does_not():
    run = {"dataset": "folder", "data_dir": "there", "val_fraction": 0.5}
    assert TransferConfig(dataset="stl10").run_flags(run) == {}
    assert TransferConfig(dataset="folder", data_dir="here").run_flags(run) == {}
    found = TransferConfig(dataset="folder", val_fraction=0.1).run_flags(run)
    assert found == {"data_dir": "there"}


def test_flags_that_are_given_replace_those_of_the_run(capsys):
    run = {"data_dir": "there", "num_workers": 2, "val_fraction": 0.5, "on_bad_image": "skip"}
    config = ScoringConfig(data_dir="here", num_workers=0)
    data_dir, options = config.decode_options(run, 64)
    assert (data_dir, options.num_workers, options.image_size) == ("here", 0, 64)
    assert (options.val_fraction, options.on_bad_image) == (0.5, "skip")
    out = capsys.readouterr().out
    assert out == "with the flags of the run: --on_bad_image skip --val_fraction 0.5\n"
    assert ScoringConfig().decode_options({}, None)[0] == "./data"
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["{", '{"dataset": 1, "save_dir": "x"}', '{"dataset": "a", "save_dir": true}', "\xff"],
)
def test_a_damaged_config_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        read_run_flags(tmp_path / "x_best.pth")


@pytest.mark.parametrize("content", ["[]", '{"architectures": ["ViT"]}', "null"])
def test_a_config_of_another_program_is_ignored(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert read_run_flags(tmp_path) == {}


def test_flags_without_a_checksum_are_said_to_be_unverified_and_changed_ones_refused(
    tmp_path, capsys
):
    flags = {"dataset": "digits", "save_dir": "./save", "data_dir": "./data", "num_workers": 3}
    file = tmp_path / "config.json"
    file.write_bytes(dump_json(flags))
    assert read_run_flags(tmp_path)["num_workers"] == 3
    assert capsys.readouterr().err == ""
    file.write_bytes(file.read_bytes().replace(b": 3", b": 4"))
    with pytest.raises(InputError, match="its checksum does not fit"):
        read_run_flags(tmp_path)
    file.write_text(json.dumps(flags))
    for _ in range(2):
        assert read_run_flags(tmp_path)["num_workers"] == 3
    assert capsys.readouterr().err.count("not verified") == 1  # and not again

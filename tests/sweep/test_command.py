"""`distillers sweep` on real digits, and its output without starting anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillers import models
from distillers.cli import main as cli
from distillers.sweep import estimate
from distillers.sweep.dry_run import source_opener
from distillers.sweep.expand import expand
from distillers.sweep.ledger import DONE, Ledger
from tests.sweep.fakes import count_starts, parse_grid

# The student alone is its own teacher: one run serves both.
GRID = """
fixed: {dataset: digits, batch_size: 256, epochs: 1}
pairs: [resnet8 -> resnet8]
methods: [alone, kd, {name: explodes, distill: kd, learning_rate: 1e30}]
trials: [0]
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yml"
    path.write_text(GRID)
    return str(path)


def sweep(*words):
    """Return the exit status of `distillers sweep`."""
    try:
        return cli.run("sweep", words)
    except SystemExit as error:
        return error.code


def test_a_small_sweep(grid, tmp_path, capsys):
    words = (grid, "--save_dir", str(tmp_path / "save"), "--gpu_id", "cpu")
    assert sweep(*words) == 1
    text = capsys.readouterr().out
    assert text.count("\ndone ") == 2
    assert text.count("\nfailed ") == 1
    assert "| error: the loss is nan" in text
    assert "explodes" in text.partition("log: ")[0]
    ledger = Ledger(tmp_path / "save")
    folders = sorted(path.parent for path in tmp_path.rglob("config.json"))
    done = [folder for folder in folders if ledger.is_done(folder)]
    assert (len(folders), len(done)) == (3, 2)
    assert [count_starts(ledger, folder) for folder in folders] == [1, 1, 1]
    assert [folder for folder in folders if ledger.has_failed(folder)] == [
        folder for folder in folders if folder not in done
    ]
    for folder in done:  # what makes it done must be the last that it writes
        last = max((path for path in folder.glob("*.*")), key=lambda path: path.stat().st_mtime_ns)
        assert last.name == DONE
    environment = json.loads((done[0] / "environment.json").read_text())
    assert environment["cpu_threads"] == 1
    assert environment["command"][0] == "train_student.py"

    check_sizes(grid, tmp_path)
    assert sweep(*words) == 1  # nothing is started again
    assert "3 runs:  2 done  1 failed" in capsys.readouterr().out
    assert [count_starts(ledger, folder) for folder in folders] == [1, 1, 1]

    assert sweep(*words, "--dry_run") == 0
    text = capsys.readouterr().out
    assert "3 points of the grid, 3 runs with their teachers: 2 done, 1 failed before, 1" in text
    assert text.count("\npython train_student.py --path_t ") == 1
    assert text.count("# done: ") == 2
    assert "from finished runs of the same kind: 1 kind;" in text  # of the other rate
    assert "with random weights, alone on cpu with 1 thread: 0 kinds" in text


def check_sizes(grid, tmp_path):
    """Check that the measured size of a run is that of the finished run."""
    text = f"{Path(grid).read_text()}save_dir: {tmp_path / 'save'}"
    known, open_source = estimate.costs_of_finished_runs(str(tmp_path / "save")), source_opener()
    assert len(known) == 2
    for run in expand(parse_grid(text, "here")).runs[:2]:
        cost = estimate.measure_cost(run, open_source(run.config), torch.device("cpu"))
        real = known[estimate.cost_key(run.config.as_json_types())]
        assert cost.run_bytes == pytest.approx(real.run_bytes, rel=0.02)
        assert cost.checkpoint_bytes == pytest.approx(real.checkpoint_bytes, rel=0.02)


def test_an_estimate_counts_unlabelled_images(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.05)
    text = "pairs: [resnet8 -> resnet8]\ntrials: [0]\nteachers: {resnet8: {}}\n"
    text += "methods: [{name: few, distill: rrd, labels_per_class: 3}, "
    text += "{name: rest, distill: rrd, labels_per_class: 3, unlabelled: rest, cls: 0, div: 0, "
    text += "student_head: none}]\nfixed: {dataset: digits, batch_size: 10}\n"
    text += f"save_dir: {tmp_path}\n"
    runs = [run for run in expand(parse_grid(text, "here")).runs if run.teacher]
    open_source = source_opener()
    sources = [open_source(run.config) for run in runs]
    assert [len(each.train_labels) for each in sources] == [30, 1297]
    assert open_source(runs[1].config) is sources[1]
    cost = estimate.measure_cost(runs[1], sources[1], torch.device("cpu"))  # of a backbone
    assert cost.epoch_seconds > 0


def test_an_estimate_of_several_teachers_and_a_single_small_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.05)
    file = tmp_path / "t.pth"
    torch.save(models.create("resnet8", num_classes=10).state_dict(), file)
    text = f"pairs: [{file} -> resnet8]\nfixed: {{dataset: digits, also_t: {file}, "
    text += "batch_size: 2000, protocol: crd}\n"
    (run,) = expand(parse_grid(text, "here")).runs
    cost = estimate.measure_cost(run, source_opener()(run.config), torch.device("cpu"))
    assert cost.epoch_seconds > 0


def test_a_dry_run_is_a_shell_script_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "MEASURED_SECONDS", 0.05)
    words = ["--pairs", "resnet8 -> resnet14", "--methods", "alone", "sp", "--trials", "1", "2"]
    words += ["--fixed", "dataset=digits", "lr_decay_epochs=3,4", "--set", "epochs=5,6"]
    assert sweep(*words, "--dry_run", "--gpu_id", "cpu", "--jobs", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert len(commands) == 1 + 2 * 2 * 2
    assert all(line.startswith(("python train_s", "python train_t")) for line in commands)
    assert all("--lr_decay_epochs 3,4" in line for line in commands)
    assert sum("--epochs 6" in line for line in commands) == 4
    assert "h with 3 runs at once" in lines[-2]
    assert "alone on cpu with 1 thread: 3 kinds" in lines[-1]  # the teacher, the student alone, sp
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_the_data_prints_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep("--pairs", "resnet56 -> resnet20", "--dry_run", "--gpu_id", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("python ") for line in lines) == 2
    assert lines[-1].startswith("# no estimate without the data: ")


WRONG = {
    "": "nothing to sweep: give a grid file, or --pairs",
    "nowhere.yml": "cannot read the grid nowhere.yml",
    "GRID --jobs 0": "--jobs is 0; it must be at least 1",
    "GRID --fixed epochs": "--fixed epochs must read NAME=VALUE",
    "GRID --set epochs=[": "--set epochs=[: ",
    "GRID --set epochs=1 epochs=2": "--set gives epochs twice",
    "GRID --fixed lr-decay-epochs=1 lr_decay_epochs=2": "--fixed gives lr_decay_epochs twice",
    "GRID --gpu_id 7": "--gpu_id 7 was asked for, but",
    "GRID --engine slurm --gpu_id 0": "--engine slurm places runs itself",
    "GRID --methods kdd": "no loss 'kdd', did you mean 'kd'",
    "GRID --pairs timm:nothing->resnet8": "timm:nothing  teacher: no timm network 'nothing'",
    "GRID --fixed dataset=cifar10 download=false": "cifar-10",
}


@pytest.mark.parametrize("words", WRONG)
def test_errors_are_reported_before_anything_is_written(grid, tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert sweep(*words.replace("GRID", grid).split()) == 2
    assert WRONG[words] in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_folder_is_reported(grid, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert sweep(grid, "--save_dir", str(tmp_path / "file"), "--gpu_id", "cpu") == 2
    assert "cannot write into" in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys; from distillers.cli import main as cli; cli.run('sweep', ['--help'])"
    words = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "--retry-failed" in done.stdout + done.stderr
    assert " torch\n" not in done.stderr

"""Reading run folders: finished, unfinished and damaged ones."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from typing import Annotated

import pytest

from distillers.cli import main as cli
from distillers.config.schema import Bounds, find_problem
from distillers.errors import InputError
from distillers.report import load_runs, run_folder, runs
from distillers.report.records import RunRecord, UnreadableRun
from tests.run_folders import write, write_run

TEACHER = ["--dataset", "digits", "--model", "resnet8", "--batch_size", "128", "--epochs", "1"]
STUDENT = ["--dataset", "digits", "--model_s", "resnet8", "--batch_size", "128", "--epochs", "1"]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A teacher and two students, trained for one epoch by the documented commands."""
    folder = tmp_path_factory.mktemp("real")
    saved = ["--save_dir", str(folder / "save")]
    assert cli.run("teacher", [*TEACHER, *saved]) == 0
    path = folder / "save/teachers/models/resnet8_vanilla/resnet8_best.pth"
    kd = [*STUDENT, *saved, "--path_t", str(path), "--distill", "kd"]
    assert cli.run("student", [*kd, "-c", "1", "-d", "1", "--protocol", "crd"]) == 0
    simkd = [*STUDENT, *saved, "--path_t", str(path), "--distill", "simkd", "--skip_validation"]
    assert cli.run("student", [*simkd, "-f", "4", "--val_fraction", "0.2"]) == 0
    return folder


def test_a_real_run_is_read_correctly(real):
    read = read_all(real)
    assert [type(run) for run in read] == [
        RunRecord
    ] * 3  # the alias of the teacher is not a fourth
    simkd, kd, alone = sorted(read, key=lambda run: run.method, reverse=True)
    assert (kd.method, kd.departures) == ("kd", {"ce": 1.0, "kd": 1.0})
    assert (simkd.method, simkd.departures) == ("simkd", {"simkd.factor": 4})
    assert (alone.method, alone.teacher, alone.departures) == ("alone", None, {})
    assert kd.teacher == simkd.teacher == "resnet8"
    assert kd.loss_settings == {
        "ce": 1.0,
        "kd": 1.0,
        "ce.label_smoothing": 0.0,
        "kd.temperature": 4.0,
        "kd.standardise": False,
    }
    (row,) = [json.loads(x) for x in (real / kd.folder / "metrics.jsonl").read_text().splitlines()]
    assert kd.scores == {"last": row["test_acc"], "best": row["test_acc"]}
    assert kd.images_per_second == row["images_per_second"]
    assert set(simkd.scores) == {"last", "best", "held_out"}
    assert alone.scores["last"] == kd.teacher_accuracy == simkd.teacher_accuracy
    assert kd.parameters == alone.parameters == 78042 < simkd.parameters
    assert 0 < alone.macs == kd.macs < simkd.macs
    assert kd.latency_ms > 0
    assert 100 < kd.peak_memory_mib < 20_000
    assert 0 < kd.hours < 0.1
    assert kd.device.startswith("cpu, ")
    parameters = json.loads((real / kd.folder / "parameters.json").read_text())
    assert parameters["Total time"] == round(kd.hours, 6)


def test_the_folders_written_by_tests_match_real_ones(real, tmp_path):
    """So that results for them also hold for folders written by training."""
    write_run(tmp_path, "kd")
    write_run(tmp_path)
    for method in ("kd", "alone"):
        (of_real,) = [r for r in read_all(real) if r.method == method]
        (made,) = [r for r in read_all(tmp_path) if r.method == method]
        for name in ("config.json", "summary.json", "environment.json"):
            theirs, ours = (
                json.loads((where / run.folder / name).read_text())
                for where, run in ((real, of_real), (tmp_path, made))
            )
            assert ours.keys() <= theirs.keys()
            assert name == "environment.json" or ours.keys() == theirs.keys()
        assert of_real.train_flags.keys() == made.train_flags.keys()


def test_unknown_home_directories_and_invalid_flags_do_not_stop_a_report(tmp_path):
    write_run(tmp_path, "kd", path_t="~nobody_of_that_name/t.pth")
    folder = write_run(tmp_path, "kd", trial=1)
    config = json.loads((folder / "config.json").read_text())
    write(folder, "config.json", {**config, "path_t": 5})
    assert [run.method for run in read_all(tmp_path)] == ["kd", "kd"]


def test_resuming_completes_a_run_without_summary(real, tmp_path):
    """Resuming measures the network but does not train."""
    shutil.copytree(real, tmp_path / "copy", symlinks=True)
    folder = next((tmp_path / "copy").rglob("*_vanilla_*"))
    before = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    run = run_folder.read_run(folder)
    assert (run.kind, "--resume" in run.reason) == ("unfinished", True)
    save_dir = str(tmp_path / "copy" / "save")
    assert cli.run("teacher", [*TEACHER, "--save_dir", save_dir, "--resume"]) == 0
    again = json.loads((folder / "summary.json").read_text())
    same = ("parameters", "macs", "device", "peak_memory_mib")
    assert {name: again[name] for name in same} == {name: before[name] for name in same}


def test_seeds_are_the_only_difference_within_a_row(tmp_path):
    folders = {
        "plain": write_run(tmp_path, "kd"),
        "trial": write_run(tmp_path, "kd", trial=1),
        "elsewhere": write_run(tmp_path / "other", "kd", trial=2, gpu_id="0", num_workers=3),
        "epochs": write_run(tmp_path, "kd", accuracies=(1, 2, 3)),
        "batch": write_run(tmp_path, "kd", batch_size=32),
        "weights": write_run(tmp_path, "kd", settings={"ce": 1, "kd": 2}, cls=1),
        "taps": write_run(tmp_path, "kd", taps_s=("layer1",)),
        "teacher": write_run(tmp_path / "b", "kd", summary={"teacher_sha256": "cd" * 32}),
    }
    same = {name: run_folder.read_run(folder).group_key for name, folder in folders.items()}
    assert same["plain"] == same["trial"] == same["elsewhere"]
    assert len(set(same.values())) == 6


def test_student_flags_separate_rows_unless_at_their_default(tmp_path):
    """Also flags added later; at their default a network trained alone has equal flags."""
    plain, alone = (
        run_folder.read_run(write_run(tmp_path, "kd")),
        run_folder.read_run(write_run(tmp_path)),
    )
    assert plain.train_flags == alone.train_flags
    later = write_run(tmp_path / "later", "kd")
    change("config.json", views=8)(later)
    assert run_folder.read_run(later).train_flags == {**plain.train_flags, "views": 8}
    change("config.json", views=None)(later)
    assert run_folder.read_run(later).train_flags == plain.train_flags


def test_image_folders_are_distinguished_by_their_path(tmp_path):
    first = write_run(tmp_path, "kd", dataset="folder", data_dir="cats")
    other = write_run(tmp_path, "kd", dataset="folder", data_dir="dogs")
    assert run_folder.read_run(first).train_flags["data_dir"] == "cats"
    assert run_folder.read_run(first).group_key != run_folder.read_run(other).group_key
    without("config.json", "data_dir")(other)
    assert isinstance(run_folder.read_run(other), RunRecord)


def test_a_transfer_is_not_counted(tmp_path):
    folder = write_run(tmp_path, "kd")
    change("config.json", path_s="student.pth")(folder)
    assert run_folder.read_run(folder).kind == "transfer"


def test_folders_are_found_once_and_links_are_not_followed(tmp_path):
    folder = write_run(tmp_path, "kd")
    (folder / "tensorboard").mkdir()
    os.symlink(folder, folder.with_name("alias"), target_is_directory=True)
    os.symlink(tmp_path, folder / "loop", target_is_directory=True)
    (tmp_path / "logs").mkdir()  # an empty folder that no run made
    assert runs.find_run_dirs([tmp_path]) == [folder]
    assert runs.find_run_dirs([tmp_path, folder, folder.parent]) == [folder]
    assert runs.find_run_dirs([folder.with_name("alias")]) == [folder.with_name("alias")]
    with pytest.raises(InputError, match="there is no folder"):
        runs.find_run_dirs([tmp_path / "nowhere"])


def read_all(root):
    return [run_folder.read_run(folder) for folder in runs.find_run_dirs([root])]


def truncated(folder, name="metrics.jsonl"):
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) - 20])


def lines(*rows):
    return lambda f: (f / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def row(epoch, **changes):
    return {"epoch": epoch, "test_acc": 50, "lr": 0.05, "images_per_second": 9.0, **changes}


def change(name, **changes):
    return lambda f: write(f, name, {**json.loads((f / name).read_text()), **changes})


def without(name, *keys):
    def spoil(folder):
        content = json.loads((folder / name).read_text())
        write(folder, name, {k: v for k, v in content.items() if k not in keys})

    return spoil


def instead(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def directory(name):
    def spoil(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


UNFINISHED = {
    "no config": lambda f: (f / "config.json").unlink(),
    "no metrics": lambda f: (f / "metrics.jsonl").unlink(),
    "no epoch": lines(),
    "one epoch of two": lines(row(1)),
    "a first stage only": lines(row(-1), row(0)),
    "no summary": lambda f: (f / "summary.json").unlink(),
    "no environment": lambda f: (f / "environment.json").unlink(),
}
DAMAGED = {
    "cut metrics": truncated,
    "cut config": lambda f: truncated(f, "config.json"),
    "cut summary": lambda f: truncated(f, "summary.json"),
    "bytes": instead("metrics.jsonl", b"\xff\xfe\x00"),
    "empty config": instead("config.json", b""),
    "config of a list": instead("config.json", b"[1, 2]"),
    "deep": instead("config.json", b"[" * 100_000),
    "deep metrics": instead("metrics.jsonl", b"[" * 100_000),
    "a long number": instead("metrics.jsonl", b'{"epoch": ' + b"9" * 5000 + b"}"),
    "a huge number": change("summary.json", parameters=10**400),
    "a folder": directory("metrics.jsonl"),
    "no object": lines([1], row(2)),
    "a gap": lines(row(1), row(3)),
    "twice": lines(row(1), row(1)),
    "too many": lines(row(1), row(2), row(3)),
    "a late start": lines(row(2), row(3)),
    "no accuracy": lines(row(1), {"epoch": 2}),
    "accuracy of text": lines(row(1), row(2, test_acc="50")),
    "accuracy of truth": lines(row(1), row(2, test_acc=True)),
    "accuracy above 100": lines(row(1), row(2, test_acc=100.5)),
    "accuracy nan": lines(row(1), row(2, test_acc=float("nan"))),
    "accuracy infinite": lines(row(1), row(2, test_acc=float("inf"))),
    "epoch of text": lines(row("1"), row(2)),
    "no held-out accuracy": lines(row(1, val_acc=3), row(2)),
    "no data set": without("config.json", "dataset"),
    "epochs of text": change("config.json", epochs="2"),
    "half a trial": change("config.json", trial=0.5),
    "no student": change("config.json", model_s=None),
    "a strange method": change("config.json", distill=["kd"]),
    "no teacher": without("summary.json", "teacher"),
    "no settings": change("summary.json", settings=3),
    "no hours": change("summary.json", hours=None),
    "a device of a number": change("summary.json", device=3),
}


@pytest.mark.parametrize("kind", [*UNFINISHED, *DAMAGED])
def test_a_damaged_or_unfinished_folder_has_a_reason_and_stops_nothing(tmp_path, kind):
    good = write_run(tmp_path, "kd")
    bad = write_run(tmp_path, "kd", trial=1)
    (UNFINISHED | DAMAGED)[kind](bad)
    found = runs.find_run_dirs([tmp_path])
    read = dict(zip(found, map(run_folder.read_run, found), strict=True))
    assert isinstance(read[good], RunRecord)
    assert isinstance(read[bad], UnreadableRun)
    assert read[bad].reason
    assert read[bad].reason.isprintable()
    assert read[bad].kind == ("unfinished" if kind in UNFINISHED else "damaged")


def test_an_empty_run_folder_is_unfinished(tmp_path):
    (tmp_path / "S_resnet8_T_resnet20_digits_kd_r_1_a_0_b_1_0_01234567").mkdir()
    (read,) = read_all(tmp_path)
    assert (read.kind, read.reason) == ("unfinished", "config.json is missing.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_folder_has_a_reason(tmp_path):
    folder = write_run(tmp_path, "kd")
    (folder / "metrics.jsonl").chmod(0)
    (read,) = read_all(tmp_path)
    assert "cannot be read" in read.reason


def test_first_stages_do_not_count(tmp_path):
    """Epochs 1 - W to 0 of AB and FSP precede the reported training."""
    folder = write_run(tmp_path, "kd")
    lines(row(-1, test_acc=99), row(0, test_acc=98), row(1, test_acc=40), row(2, test_acc=30))(
        folder
    )
    read = run_folder.read_run(folder)
    assert read.curve == (40, 30)
    assert read.scores == {"last": 30, "best": 40}


def test_the_fast_check_of_numbers_agrees_with_the_slow_one():
    ends = [0, 1.5, -1e18, 10**18, 10**400, -1e19, float("nan"), float("inf"), True, "1", None]
    bounds = Bounds(-1e18, 1e18)
    hint = Annotated[float, bounds]
    for first in ends:
        for second in ends:
            for values in ([first, second], [1, first, 2.5, second, 3]):
                is_valid = not any(find_problem(value, hint) for value in values)
                assert run_folder.all_within(values, bounds) is is_valid, values
    assert run_folder.all_within([], bounds)


def test_a_single_invalid_number_is_found(tmp_path):
    for number, bad in enumerate((1e300, float("nan"), "1")):
        folder = write_run(tmp_path, "kd", trial=number)
        lines(row(1), row(2, images_per_second=bad))(folder)
        assert "images_per_second is" in run_folder.read_run(folder).reason


def test_a_data_frame_has_one_row_for_each_finished_run(tmp_path):
    for trial in range(3):
        write_run(tmp_path, "kd", trial=trial, accuracies=(50, 60 + trial))
    write_run(tmp_path, None, accuracies=(70, 65), held_out=(2, 1))
    bad = write_run(tmp_path, "at")
    (bad / "summary.json").unlink()
    frame = load_runs([tmp_path])
    assert [field.name for field in dataclasses.fields(RunRecord)] == list(frame.columns[:-3])
    means = frame.groupby("method")[["last", "best", "held_out"]].mean()
    assert means.loc["kd"].tolist()[:2] == [61, 61]
    assert means.loc["alone"].tolist() == [65, 70, 70]
    assert means["held_out"].isna()["kd"]
    ((folder, kind, _),) = frame.attrs["not_counted"]
    assert (folder, kind) == (str(bad), "unfinished")
    assert load_runs([bad]).empty


def test_parallel_reading_gives_the_same_result(tmp_path):
    """In a separate process, since forking this one, which has threads, is not safe."""
    for trial in range(3):
        write_run(tmp_path, "kd", trial=trial)
    truncated(write_run(tmp_path, "kd", trial=3))
    code = f"""
from pathlib import Path
from distillers.report import load_runs, runs
folders = runs.find_run_dirs([Path({str(tmp_path)!r})])
alone = runs.read_runs(folders)
runs.PARALLEL_FROM = 2
pool, made = runs.ProcessPoolExecutor, []
runs.ProcessPoolExecutor = lambda **kwargs: made.append(1) or pool(**kwargs)
assert runs.read_runs(folders) == alone == [runs.read_run(folder) for folder in folders]
assert made == [1] and len(alone) == 4
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_report_needs_no_torch(tmp_path):
    write_run(tmp_path, "kd")
    code = (
        "import sys; from distillers.cli import main as cli; "
        f"assert cli.run('report', [{str(tmp_path)!r}, '--out', {str(tmp_path / 'out')!r}]) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

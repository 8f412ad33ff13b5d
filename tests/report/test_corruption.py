"""Random damage to the files of a run is refused, harmless, or the run counts as not verified."""

import dataclasses
import json
import random
import resource
import subprocess
import sys

import pytest

from distillers.config.run_files import dump_json, dump_metrics, load_json, load_metrics
from distillers.errors import CorruptFileError
from distillers.report.records import RunRecord, UnreadableRun
from distillers.report.run_folder import read_run
from tests.run_folders import corrupt, write_run

FILES = ("config.json", "summary.json", "environment.json", "metrics.jsonl")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_no_random_damage_changes_a_report_in_silence(name, count, tmp_path):
    folder = write_run(tmp_path, "kd", held_out=(40.0, 50.0))
    before, content = read_run(folder), (folder / name).read_bytes()
    assert isinstance(before, RunRecord)
    assert before.is_verified
    rng = random.Random(f"{name} {count}")
    refused = 0
    for _ in range(count):
        (folder / name).write_bytes(corrupt(content, rng))
        found = read_run(folder)
        if isinstance(found, UnreadableRun):
            refused += 1
            assert name in found.reason or "epochs are done" in found.reason
            assert found.reason.isprintable()
        elif found.is_verified:
            assert found == before
    assert refused > count / 2


CRAFTED = {
    "summary.json": {
        "hours": (-1, 1e300, True, "1", [1], None, float("nan")),
        "parameters": (-1, 10**400, 1.5),
        "devices": (0, -4, 10**9),
        "device": ("", 3, "x" * 10_000),
        "teacher_accuracy": (101, -1, "93"),
        "latency_ms": (float("inf"),),
        "settings": ([], "kd", {"kd": float("nan")}),
    },
    "config.json": {
        "dataset": (None, "", 3, {"a": 1}),
        "epochs": (-1, 10**12, "2", 2.0),
        "trial": (10**30, None),
        "distill": (3, ["kd"]),
        "model_s": ([], 5),
    },
}


@pytest.mark.parametrize("name", CRAFTED)
def test_values_out_of_range_are_refused_by_name_even_with_a_right_checksum(name, tmp_path):
    folder = write_run(tmp_path, "kd")
    content, _ = load_json(folder / name)
    for entry, values in CRAFTED[name].items():
        for value in values:
            (folder / name).write_bytes(dump_json({**content, entry: value}))
            found = read_run(folder)
            assert isinstance(found, UnreadableRun), (entry, value)
            assert entry in found.reason
            assert len(found.reason) < 300


def test_runs_of_earlier_versions_are_read_but_not_verified(tmp_path):
    folder = write_run(tmp_path, "kd")
    verified = read_run(folder)
    for name in FILES[:3]:
        content, _ = load_json(folder / name)
        (folder / name).write_text(json.dumps(content))
        assert load_json(folder / name) == (content, False)
    rows, _ = load_metrics(folder / "metrics.jsonl")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_metrics(folder / "metrics.jsonl") == (rows, False)
    assert read_run(folder) == dataclasses.replace(verified, is_verified=False)


def test_files_may_be_formatted_anew_but_not_changed(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(dump_json({"b": [1, 2.5], "a": {"x": None}}))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))
    assert load_json(path) == ({"b": [1, 2.5], "a": {"x": None}}, True)
    path.write_text(json.dumps({**content, "b": [1, 2.4]}))
    with pytest.raises(CorruptFileError, match=r"a\.json is damaged: its checksum"):
        load_json(path)


def test_lines_of_metrics_that_do_not_fit_their_checksum_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"epoch": 1, "test_acc": 50.0}, {"epoch": 2, "test_acc": float("nan")}]
    path.write_bytes(dump_metrics(rows))
    found, is_verified = load_metrics(path)
    assert is_verified
    assert str(found) == str(rows)  # nan is not equal to itself
    path.write_bytes(path.read_bytes().replace(b"50.0", b"60.0"))
    with pytest.raises(CorruptFileError, match="line 1, is damaged"):
        load_metrics(path)


def test_a_report_says_what_is_not_verified(tmp_path, capsys):
    from distillers.cli import main as cli

    folder = write_run(tmp_path, "kd")
    words = [str(tmp_path), "--out", str(tmp_path / "out"), "--format", "csv"]
    assert cli.run("report", words) == 0
    assert "not verified" not in capsys.readouterr().out
    content, _ = load_json(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps(content))
    assert cli.run("report", words) == 0
    line = "not verified: 1 run of an earlier version, whose files have no checksums, such as"
    assert f"{line} {folder}\n" in capsys.readouterr().out


def report_with_a_file_limit(folder, out, limit):
    """Write a report in a process whose files cannot grow beyond a limit in bytes."""
    command = [
        sys.executable,
        "-m",
        "distillers.cli.main",
        "report",
        str(folder),
        "--out",
        str(out),
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def test_a_full_disk_ends_a_report_in_a_line_and_keeps_the_earlier_one(tmp_path):
    write_run(tmp_path, "kd")
    out = tmp_path / "out"
    assert report_with_a_file_limit(tmp_path, out, 10**7).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_run(tmp_path, "kd", trial=1)
    done = report_with_a_file_limit(tmp_path, out, 1000)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "| true"])
def test_a_report_survives_an_output_that_takes_nothing(redirection, tmp_path):
    write_run(tmp_path, "kd")
    command = f"{sys.executable} -m distillers.cli.main report {tmp_path} --out {tmp_path}/out"
    done = subprocess.run(["sh", "-c", f"{command} {redirection}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert done.returncode == (2 if redirection == ">/dev/full" else 0)
    assert not list(tmp_path.rglob("*.part"))

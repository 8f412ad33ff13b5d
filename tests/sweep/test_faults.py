"""Teachers of every kind, crafted grids and checkpoints, and faults of the machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from distillers import models
from distillers.checkpoints.io import save
from distillers.cli import main as cli
from distillers.config.student import StudentConfig
from distillers.errors import InputError
from distillers.sweep.expand import expand
from distillers.sweep.grid import MAX_POINTS
from distillers.sweep.ledger import Ledger
from tests.sweep.fakes import parse_grid
from tests.sweep.test_run_job import alive, wait_for

FIXED = "fixed: {dataset: digits, epochs: 1, batch_size: 256}"


def sweep(*args):
    """Return the exit status of `distillers sweep`."""
    try:
        return cli.run("sweep", args)
    except SystemExit as error:
        return error.code


def write_teacher(folder, name="resnet8", **card):
    """Write a checkpoint of a network with ten classes, and return its path."""
    folder.mkdir(parents=True)
    state = models.create("resnet8", num_classes=10).state_dict()
    card = {"model": name, "num_classes": 10, "image_size": 32, **card}
    save(folder / "resnet8_best.pth", {"model": state, "card": card})
    return folder / "resnet8_best.pth"


TEACHERS = ("file", "folder", "folder without a slash", "entry", "weights", "unnamed", "tar")


@pytest.mark.parametrize("kind", TEACHERS)
def test_whatever_path_t_takes_is_a_teacher(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") if kind == "folder without a slash" else Path("some/runs")
    path, teachers = write_teacher(folder), ""
    if kind == "folder":
        pair = str(folder)
    elif kind == "folder without a slash":
        pair = "runs"
    elif kind == "entry":
        pair, teachers = "mine", f"teachers: {{mine: {folder}}}"
    else:
        pair = str(path)
    if kind in ("weights", "unnamed", "tar"):
        folder = Path("resnet8_vanilla" if kind == "weights" else "other")
        folder.mkdir()
        path = folder / ("model.pth.tar" if kind == "tar" else "model.pth")
        torch.save({"state_dict": models.create("resnet8", num_classes=10).state_dict()}, path)
        pair = str(path)
    grid = parse_grid(f"{FIXED}\npairs: [{pair} -> resnet14]\n{teachers}", "here")
    (run,) = expand(grid).runs
    assert isinstance(run.config, StudentConfig)
    assert (run.teacher, run.teacher_run) == ("resnet8", None)
    assert Path(run.config.path_t or "") == (folder if "folder" in kind or teachers else path)


def test_the_folder_of_a_run_with_a_run_folder_as_teacher_is_that_of_the_command(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = write_teacher(tmp_path / "teacher").parent
    grid = parse_grid(f"{FIXED}\npairs: [{folder} -> resnet8]", "here")
    (run,) = expand(grid).runs
    assert cli.run("student", run.args) == 0
    assert Ledger("save").is_done(run.folder)


@pytest.mark.parametrize("num_best", [0, 2])
def test_a_folder_without_one_best_checkpoint_is_refused(tmp_path, num_best):
    for n in range(num_best):
        (tmp_path / f"{n}_best.pth").write_bytes(b"")
    with pytest.raises(InputError, match=f"holds {num_best} files called"):
        expand(parse_grid(f"{FIXED}\npairs: [{tmp_path} -> resnet8]", "here"))


EVIL = "open('imported', 'w').close()\ndef net(**_): raise SystemExit\nLoss = net\n"
CARDS = {
    "module": {"name": "evil:net"},
    "attribute": {"name": "evil:Loss.net"},
    "deployed": {"deploy": {"name": "evil:Loss"}},
    "script": {"name": "evil.py:net"},
}


@pytest.mark.parametrize("case", CARDS)
@pytest.mark.parametrize("extra", [(), ("--dry_run",)])
def test_the_card_of_a_teacher_imports_nothing(tmp_path, monkeypatch, capsys, case, extra):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    write_teacher(tmp_path / "teacher", **CARDS[case])
    words = ("--pairs", "teacher/resnet8_best.pth -> resnet8", "--fixed", "dataset=digits")
    assert sweep(*words, "--gpu_id", "cpu", *extra) == 2
    assert not Path("imported").exists()
    assert not Path("save").exists()
    error = capsys.readouterr().err
    assert "evil" in error
    assert "code outside of distillers" in error


LARGE = {
    "trials": f"pairs: [a -> b]\ntrials: {list(range(20_000))}",
    "sets": "pairs: [a -> b]\nset: {"
    + ", ".join(f"{name}: [{', '.join('12345678')}]" for name in ("epochs", "kd_T", "cls", "div"))
    + ", batch_size: [1, 2, 4]}",
    "pairs": f"pairs: [{', '.join(f'a{n} -> b' for n in range(200))}]\ntrials: {list(range(51))}",
}


@pytest.mark.parametrize("case", LARGE)
def test_the_number_of_runs_is_bounded_before_they_are_built(tmp_path, capsys, case):
    path = tmp_path / "grid.yml"
    path.write_text(LARGE[case])
    assert sweep(str(path), "--dry_run") == 2
    told = capsys.readouterr()
    assert "combinations; a sweep takes at most 10,000" in told.err
    assert len(told.err) + len(told.out) < 300


def test_the_largest_grid_is_allowed():
    text = f"pairs: [a -> b]\ntrials: {list(range(MAX_POINTS))}"
    parse_grid(text, "here").check()


LONG = "[" + ", ".join(["1"] * 20_000) + "]"
WIDE = {
    "a trial": f"pairs: [a -> b]\ntrials: [{LONG}]",
    "a pair": f"pairs: [{LONG}]",
    "a method": f"pairs: [a -> b]\nmethods: [{LONG}]",
    "a mapping": f"pairs: [a -> b]\nmethods: [{{cls: {LONG}}}]",
    "a folder": f"pairs: [a -> b]\nsave_dir: {LONG}",
    "a name": f"{'x' * 50_000}: 1",
    "a flag": f"pairs: [a -> b]\nfixed: {{{'x' * 50_000}: 1}}",
    "a value": f"pairs: [resnet8 -> resnet8]\nfixed: {{epochs: {LONG}}}",
    "a network": f"pairs: [{'x' * 50_000} -> resnet8]",
    "known pairs": "pairs: [" + ", ".join(f"a{n} -> b" for n in range(5000)) + "]\n"
    "methods: [{distill: kd, pairs: [x -> b]}]",
}


@pytest.mark.parametrize("case", WIDE)
def test_an_error_prints_little_of_a_large_entry(tmp_path, capsys, case):
    path = tmp_path / "grid.yml"
    path.write_text(WIDE[case])
    assert sweep(str(path), "--dry_run") == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert len(told.err) + len(told.out) < 6000


@pytest.mark.parametrize("trial", [-1, 2**63, 10**30])
def test_a_trial_that_is_no_seed_is_refused(trial):
    with pytest.raises(InputError, match=r"the trial -?\d+ must be 0 to 9223372036854775807"):
        parse_grid(f"pairs: [resnet8 -> resnet8]\ntrials: [1, {trial}]", "here")


COMMAND = [sys.executable, "-m", "distillers.cli.main", "sweep"]
SMALL = ["--pairs", "resnet8 -> resnet8", "--methods", "alone", "--trials", "0", "1"]
SMALL += ["--fixed", "dataset=digits", "batch_size=256", "epochs=500", "--gpu_id", "cpu"]


def environment(**changes):
    paths = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, **changes}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 75, marks=pytest.mark.slow),
    ],
)
def test_a_repeated_signal_lets_the_runs_save(tmp_path, number, status):
    words = [*COMMAND, *SMALL, "--jobs", "1"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as driver:
        wait_for(lambda: any(path.stat().st_size for path in tmp_path.rglob("metrics.jsonl")), 120)
        log = next((tmp_path / "save" / "sweep" / "logs").glob("*.log"))
        pid = int(log.read_text().partition("process ")[2].partition(":")[0])
        for _ in range(5):
            if driver.poll() is None:
                driver.send_signal(number)
            time.sleep(0.1)
        _, errors = driver.communicate(timeout=120)
    assert driver.returncode == status
    assert errors.decode() == f"stopped by {number.name}; the same command resumes.\n"
    assert not alive(pid)
    assert "the run is saved" in log.read_text()
    (run,) = (path.parent for path in tmp_path.rglob("metrics.jsonl"))
    assert (run / "resnet8_last.pth").exists()
    assert not list((tmp_path / "save" / "sweep" / "failed").iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_output_ends_a_dry_run_in_a_line(tmp_path):
    with open("/dev/full", "w") as full:
        words = [*COMMAND, *SMALL, "--engine", "local", "--methods", "kd", "--dry_run"]
        words[words.index("epochs=500")] = "epochs=1"
        done = subprocess.run(
            words, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: cannot write to standard output: [Errno 28]")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_ends_a_dry_run_quietly(tmp_path):
    words = [*COMMAND, *SMALL, "--dry_run"]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors) == (1, b"")


def test_a_closed_output_changes_nothing(tmp_path):
    words = ["sh", "-c", '"$@" >&-', "sh", *COMMAND, *SMALL, "--dry_run"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("locale", "utf8"), [("POSIX", "0"), ("C.UTF-8", "1")])
@pytest.mark.parametrize("name", ["Bücher".encode(), b"B\xfccher"])
def test_folders_of_any_name_in_any_locale(tmp_path, locale, utf8, name):
    is_utf8 = (name, locale) == ("Bücher".encode(), "C.UTF-8")  # as the process reads its arguments
    text = FIXED + "\npairs: [resnet8 -> resnet8]\nmethods: [{name: 学, distill: alone}]"
    (tmp_path / "grid.yml").write_text(text, encoding="utf-8")
    changes = {"LC_ALL": locale, "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    words = [*COMMAND, "grid.yml", "--dry_run", "--save_dir", name, "--gpu_id", "cpu"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(**changes), capture_output=True)
    if not is_utf8:
        assert done.returncode == 2
        assert b"it must be a path in UTF-8." in done.stderr
        assert len(done.stderr.splitlines()) == 1
        return
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\npython train_") == 1
    if utf8 == "1":
        assert name in done.stdout


def test_a_failure_that_cannot_be_recorded_stops_the_sweep(tmp_path, monkeypatch):
    """A full disk fails every run; those that have not started are left for later."""
    from distillers.sweep import driver
    from tests.sweep.fakes import FakeExecutor

    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    grid = parse_grid(f"save_dir: {tmp_path}\n{FIXED}\npairs: [resnet8 -> resnet8]\n", "here")
    ledger, executor = Ledger(tmp_path), FakeExecutor(statuses={"resnet8": 2})
    ledger.create()
    (ledger.folder / "failed").chmod(0o500)
    monkeypatch.setattr("distillers.sweep.ledger.write_atomically", refuse_to_write)
    with pytest.raises(InputError, match=r"cannot write .*No space left.*the sweep was stopped"):
        driver.Sweep(expand(grid).runs, ledger, executor).run(lambda *_: None)
    assert executor.stopped
    assert len(executor.started) == 1


def refuse_to_write(path, content):
    raise OSError(28, "No space left on device")


@pytest.mark.timeout(300)
def test_two_sweeps_that_start_at_once_create_one_folder(tmp_path):
    """Neither fails, and the records of both are those of one."""
    words = [*COMMAND, *SMALL, "--jobs", "1", "--trials", "0", "1"]
    words[words.index("epochs=500")] = "epochs=1"
    sweeps = [
        subprocess.Popen(
            words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=280) for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs
    done = list(tmp_path.rglob("parameters.json"))
    assert [json.loads(path.read_text())["epochs"] for path in done] == [1, 1]
    logs = (tmp_path / "save" / "sweep" / "logs").glob("*.log")
    assert [log.read_text().count("=== started") for log in logs] == [1, 1]

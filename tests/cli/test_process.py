"""Commands that are stopped by signals, or whose output cannot be written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillers.cli import main as cli
from distillers.files import write_atomically

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SLOW = """
import sys, time
from pathlib import Path
from distillers.cli import main
from distillers.cli.commands import list as command


def slow(args):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(1)
        Path("cleaned").write_text("")

command.main = slow
sys.exit(main.run("list", [], until_exit=True))
"""
TRAIN = ["--dataset", "digits", "--model", "tests.nets:tiny", "--batch_size", "64"]
TRAIN += ["--epochs", "500", "--lr_decay_epochs", "", "--gpu_id", "cpu"]


def start(words, folder, **more):
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=more.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        **more,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT", "SIGHUP"])
def test_a_signal_that_is_sent_repeatedly_does_not_cut_off_the_cleanup(name, tmp_path):
    number = getattr(signal, name)
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"these tests were started with {name} ignored, as their processes then are")
    process = start(["-c", SLOW], tmp_path)
    assert process.stdout.readline() == "ready\n"
    for _ in range(5):
        process.send_signal(number)
        time.sleep(0.1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == f"stopped by {name}.\n"
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT"])
def test_training_saves_on_a_signal_that_is_sent_until_it_ends(name, tmp_path):
    number = getattr(signal, name)
    process = start([ROOT / "train_teacher.py", *TRAIN], tmp_path)
    for line in process.stderr:
        if "epoch 1/" in line:
            break
    while process.poll() is None:
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert f"stopped by {name}; the run is saved" in err
    assert "Traceback" not in err
    assert len(list(tmp_path.rglob("*_last.pth"))) >= 1


def test_training_goes_on_when_nobody_reads_its_output(tmp_path):
    flags = [*TRAIN, "--epochs", "2"]
    with start([ROOT / "train_teacher.py", *flags], tmp_path) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1  # what it printed was lost
    assert "epoch 2/2" in err
    assert "Traceback" not in err
    assert list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("flags", [["list", "datasets"], ["list", "--help"], ["--help"], ["-V"]])
def test_a_full_disk_behind_stdout_is_one_line_and_a_status(flags, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        process = start(["-m", "distillers", *flags], tmp_path, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("error: cannot write to standard output: ")
    assert len(err.splitlines()) == 1


def test_closed_standard_files_do_no_harm(tmp_path):
    words = f"{sys.executable} {ROOT / 'train_teacher.py'} {' '.join(TRAIN[:-4])} --epochs 1"
    words += " --lr_decay_epochs '' --gpu_id cpu <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, env=ENVIRONMENT)
    assert done.returncode == 0
    assert list(tmp_path.rglob("summary.json"))


def test_what_stdout_cannot_encode_is_escaped(tmp_path):
    environment = {**ENVIRONMENT, "LC_ALL": "POSIX", "PYTHONUTF8": "0"}
    environment |= {"PYTHONCOERCECLOCALE": "0"}
    code = "import sys; from distillers.cli import main; sys.exit(main.run('\\u00e4\\udcff', []))"
    for extra in ({}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8:strict"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | extra, capture_output=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: no command")


def test_a_folder_whose_name_is_not_utf8_is_read_from_but_not_trained_into(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "x") + b"\xff"))
    folder.mkdir()
    environment = {**ENVIRONMENT, "LC_ALL": "POSIX"}

    def run(*words):
        words = [sys.executable, "-m", "distillers", *words]
        return subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True)

    flags = ["--dataset", "digits", "--model", "resnet8", "--epochs", "1", "--gpu_id", "cpu"]
    flags += ["--batch_size", "256", "--lr_decay_epochs", ""]
    refused = run("teacher", *flags, "--save_dir", str(folder / "save"))
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"error: --save_dir is ")
    assert b"UTF-8" in refused.stderr
    assert run("teacher", *flags).returncode == 0
    (tmp_path / "save").rename(folder / "save")
    path = str(folder / "save/teachers/models/resnet8_vanilla")
    for words in (["evaluate", path], ["export", path], ["report", str(folder / "save")]):
        done = run(*words)
        assert b"Traceback" not in done.stderr, done.stderr
        assert (done.returncode == 0) != done.stderr.startswith(b"error: "), done.stderr


def test_a_signal_while_a_file_is_written_leaves_nothing_half_written(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", b"content")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file(tmp_path, monkeypatch, capsys):
    from distillers.cli.commands import list as command

    def fill(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    monkeypatch.setattr(command, "main", lambda _: write_atomically(tmp_path / "x", b"content"))
    assert cli.run("list", []) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'x'}: No space left on device; make room")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "found in ['/tmp']",
        ),
        (OSError(122, "Disk quota exceeded"), "Disk quota exceeded"),
    ],
)
def test_a_full_disk_without_a_file_is_a_line(error, words, monkeypatch, capsys):
    from distillers.cli.commands import list as command

    def fill(_):
        raise error

    monkeypatch.setattr(command, "main", fill)
    assert cli.run("list", []) == 2
    assert capsys.readouterr().err.endswith(f"{words}; make room, and run the command again.\n")


def test_two_processes_that_resume_one_run_do_not_both_train_in_it(tmp_path):
    flags = [ROOT / "train_teacher.py", *TRAIN]
    first = start(flags, tmp_path)
    for line in first.stderr:
        if "epoch 1/" in line:
            break
    second = start([*flags, "--resume"], tmp_path)
    _, err = second.communicate(timeout=100)
    assert second.returncode == 2, err
    assert "another process " in err
    assert "Traceback" not in err
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 75

"""Every command of the documentation parses, and runs on small data."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distillers.cli.commands.sweep import SweepConfig
from distillers.cli.main import COMMANDS
from tests.docs.shell_blocks import OTHER, ROOT, SHELL, blocks, commands, outside_of_blocks, pages
from tests.docs.small_data import PREPARED, prepare
from tests.docs.substitutions import TABLE, Table

PRINTED = {str(page.relative_to(ROOT)): found for page in pages() if (found := commands(page))}
COPIED = ("benchmarks", "distillers", "docs", "examples", "scripts", "tests")
MARK = "@@"  # before the output of each command


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_in_blocks_of_a_known_language(page):
    assert {language for language, _ in blocks(page.read_text())} <= {*SHELL, *OTHER}
    assert not outside_of_blocks(page)


def test_every_entry_of_the_table_is_used():
    table = Table()
    for page, found in PRINTED.items():
        for command in found:
            table.plan(page, command)
    assert not table.unused()
    assert set(TABLE["before"]) <= set(PRINTED)
    assert {name for page in PRINTED for name in before(page)["data"]} == set(PREPARED)


def before(page):
    """What is on the disk before a page: names of data, and commands."""
    return {"data": [], "commands": "", **TABLE["before"].get(page, {})}


def test_the_printed_grid_is_one(tmp_path):
    page = (ROOT / "docs/sweep.md").read_text()
    (text,) = (block for language, block in blocks(page) if language == "yaml")
    (tmp_path / "grid.yml").write_text(text)
    grid = SweepConfig(grid=str(tmp_path / "grid.yml"), trust=("my_package",)).build_grid()
    grid.check()
    assert len(grid.methods) == 6


class ParsedError(Exception):
    """Ends a command after its flags are parsed."""


def programs(page):
    """Return the words of each program that a page starts, variables replaced."""
    known = {}
    for command in PRINTED[page]:
        line = command.split(" || ")[0]
        if assigned := re.fullmatch(r'([A-Z_]+)="?(.*?)"?', line):
            known[assigned[1]] = "COMPUTED" if assigned[2].startswith("$(") else assigned[2]
            continue
        line = re.sub(r"\$([A-Z_]+)", lambda found: known[found[1]], line)
        words = [word for word in shlex.split(line, comments=True) if not word.startswith("TEST_")]
        if words[0] in ("torchrun", "srun"):  # it has flags of its own, then ours
            script = next(i for i, word in enumerate(words) if word.endswith("train_student.py"))
            words = ["python", *words[script:]]
        yield words


@pytest.mark.parametrize("page", list(PRINTED))
def test_printed_flags_are_known(page, monkeypatch):
    """Also of what only parses, or runs with other flags."""
    from distillers.config import parsing

    def stop(*args):
        parsing.parse(*args)
        raise ParsedError

    for words in programs(page):
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists()
            script = re.fullmatch(r"(?:train_)?(\w+?)(?:_student)?\.py", words[1])
            words = ["distillers", script[1], *words[2:]] if script else words
        if words[0] != "distillers":
            assert words[0] in ("python", "./dev", "pip", "torchrun"), words
            continue
        assert words[1] in COMMANDS
        module = importlib.import_module(f"distillers.cli.commands.{words[1]}")
        monkeypatch.setattr(module, "parse", stop)
        with pytest.raises(ParsedError):
            module.main(words[2:])


def install(root: Path) -> dict[str, str]:
    """Copy the project into a folder, as a clone whose `.venv` is there; return its environment."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, root)
    folder = root / ".venv/bin"
    folder.mkdir(parents=True)
    starts = {"python": "", "distillers": "-m distillers", "torchrun": "-m torch.distributed.run"}
    for name, words in starts.items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
    for name in ("uv", "pip"):  # nothing is ever installed
        (folder / name).write_text("#!/bin/sh\nexit 1\n")
    for path in folder.iterdir():
        path.chmod(0o755)
    sums = subprocess.run(
        ["sh", "-c", "cat pyproject.toml requirements.txt | cksum"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    (root / ".venv/stamp").write_text(sums.stdout)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "TEST_WORKERS": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
    }


def script(page: str) -> str:
    """Return the commands of a page as one script, in which each ends with a status that it may."""
    lines = ["set -eu", before(page)["commands"]]
    table = Table()
    for command in PRINTED[page]:
        planned = table.plan(page, command)
        if not planned.reason:
            ends = f" || [ $? -eq {planned.status} ]" if planned.status else ""
            runs = planned.runs.split(" # ")[0] + ends
            lines += [f"echo {MARK} $SECONDS s: {shlex.quote(command)}", runs]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", list(PRINTED))
def test_printed_commands_run(page, tmp_path):
    """In their order, in one folder, offline and on the CPU."""
    environment = install(tmp_path)
    for name in before(page)["data"]:
        prepare(name, tmp_path)
    with (tmp_path / "output").open("w") as output:
        status = subprocess.call(
            ["bash", "-c", script(page)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    text = (tmp_path / "output").read_text()
    last = f"{text.split(MARK)[-1]}\n{status} is the exit status of\n{script(page)}"
    assert status == 0, last
    assert "Traceback" not in text

"""The walk without labels of docs/teachers.md runs as printed, offline."""

import glob
import json
import re
import shlex
from pathlib import Path

import pytest

from distillers.cli import main as cli

ROOT = Path(__file__).parents[2]


def commands() -> list[list[str]]:
    """Return the words of each command of the section."""
    text = (ROOT / "docs/teachers.md").read_text().split("## Images without labels")[1]
    blocks = re.findall(r"```sh\n(.*?)```", text.split("\n## ")[0], re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_walk_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = []
    for words in commands():
        if words[0] == "python":
            words = [re.sub(r"^(train_)?(\w+?)(_student)?\.py$", r"\2", words[1]), *words[2:]]
        else:
            words = words[1:]
        expanded = [each for word in words for each in (glob.glob(word) or [word])]
        device = [] if words[0] in ("cache",) else ["--gpu_id", "cpu"]
        assert cli.run(expanded[0], [*expanded[1:], *device]) == 0, words
        names.append(words[0])
    assert names == ["teacher", "audit", "student", "student", "transfer", "cache", "cache"]
    out = capsys.readouterr().out
    assert "1,247 training without labels" in out
    assert "no loss trains the student's classifier" in out
    assert "fits the 1,297 training images, 2 views each" in out
    found = json.loads(Path("audit/audit.json").read_text())
    assert found["images"] == 1297

"""The walk without labels of docs/teachers.md runs as printed, offline."""

import json
from pathlib import Path

import pytest

from tests.printed import commands, run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_walk_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/teachers.md").read_text().split("## Images without labels")[1]
    names = []
    for words in commands(text.split("\n## ")[0]):
        assert run(words) == 0, words
        names.append(words[0])
    assert names[:5] == ["teacher", "audit", "student", "student", "transfer"]
    assert names[5:] == ["cache", "cache", "student"]
    out = capsys.readouterr().out
    assert "1,247 training without labels" in out
    assert "no loss trains the student's classifier" in out
    assert "fits the 1,297 training images, 2 views each" in out
    found = json.loads(Path("audit/audit.json").read_text())
    assert found["images"] == 1297

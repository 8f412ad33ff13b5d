"""The tables of speed are those that were measured."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("speed", ROOT / "benchmarks/speed.py")
speed = importlib.util.module_from_spec(spec)
spec.loader.exec_module(speed)


def measured(name):
    return json.loads((ROOT / "benchmarks/results" / name).read_text())


def test_the_page_shows_what_was_measured():
    page = (ROOT / "docs/speed.md").read_text()
    for name in ("speed.json", "second.json", "vitkd.json"):
        assert speed.table(measured(name)) in page, name


def test_the_readme_shows_what_was_measured():
    table = speed.table(measured("speed.json"), ("default", "bf16", "cached"), across=True)
    assert table in (ROOT / "README.md").read_text()


def test_a_table_has_methods_as_rows_or_columns():
    row = {"student step": {}, "teacher forward": {}, "plain": {"ratio": 1.006}}
    content = {"results": {"rows": {"kd": {**row, "default": {"ratio": 0.9}}}}}
    assert speed.table(content) == "|  | plain | default |\n|---|---|---|\n| kd | 1.01 | 0.90 |"
    assert (
        speed.table(content, ["default"], across=True) == "|  | kd |\n|---|---|\n| default | 0.90 |"
    )

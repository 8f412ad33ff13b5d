"""Figures in README and the docs are those that were measured."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"


def test_the_readme_shows_rows_of_the_study():
    rows = json.loads((RESULTS / "study.json").read_text())["results"]
    header, _, values = (ROOT / "README.md").read_text().split("| alone | KD |")[1].splitlines()[:3]
    names = ["alone", "KD (1/1)", *(name.strip() for name in header.split("|") if name.strip())]
    found = [rows[name]["last"] for name in names]
    shown = " | ".join(f"{each['mean']:.2f} ± {each['sd']:.2f}" for each in found)
    assert values == f"| {shown} |"


def test_the_page_shows_the_training_beside_timms_loop():
    path = ROOT / "benchmarks/timm_loop.py"
    spec = importlib.util.spec_from_file_location("timm_loop", path)
    timm_loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timm_loop)
    content = json.loads((RESULTS / "timm_loop.json").read_text())
    assert timm_loop.table(content) in (ROOT / "docs/recipes.md").read_text()

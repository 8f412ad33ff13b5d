"""Figures in README and the docs are those that were measured."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"


def test_the_readme_shows_rows_of_the_study():
    rows = json.loads((RESULTS / "study.json").read_text())["results"]
    header, _, values = (ROOT / "README.md").read_text().split("| alone | KD |")[1].splitlines()[:3]
    names = ["alone", "KD (1/1)", *(name.strip() for name in header.split("|") if name.strip())]
    found = [rows[name]["last"] for name in names]
    shown = " | ".join(f"{each['mean']:.2f} ± {each['sd']:.2f}" for each in found)
    assert values == f"| {shown} |"


@pytest.mark.parametrize("name", ["recipes", "timm_loop"])
def test_the_page_of_recipes_shows_the_table_of_a_benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    content = json.loads((RESULTS / f"{name}.json").read_text())
    assert benchmark.table(content) in (ROOT / "docs/recipes.md").read_text()

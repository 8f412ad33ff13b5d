"""One page for each method: formula, what it reads, cost, and its docstring."""

import json
import runpy
from pathlib import Path

import yaml
from diagram import diagram
from latex2mathml.converter import convert

from distillers.losses import wiring

ROOT = Path(__file__).parents[2]
PAGES = runpy.run_path(str(ROOT / "docs/make_methods.py"))
FORMULAS: dict[str, str] = yaml.safe_load((Path(__file__).with_name("formulas.yml")).read_text())
SPEED = [ROOT / f"benchmarks/results/{name}.json" for name in ("speed", "second")]


def pages() -> dict[str, str]:
    """Return the Markdown of each method's page by the name of the method."""
    return {name: page(name, cls) for name, cls in sorted(wiring.losses().items())}


def page(name: str, cls: type) -> str:
    """Return the page of one method."""
    title, *rest = PAGES["section"](name, cls).strip().split("\n")
    return "\n\n".join(
        filter(
            None,
            [
                title.replace("## ", "# "),
                formula(name),
                diagram(wiring.forward_inputs(cls.forward)),
                cost(name),
                "\n".join(rest),
            ],
        )
    )


def formula(name: str) -> str:
    """Return the formula of a method as MathML, or nothing."""
    if name not in FORMULAS:
        return ""
    return f'<div class="formula">{convert(FORMULAS[name], display="block")}</div>'


def cost(name: str) -> str:
    """Return the measured time of a step of a method, or nothing where it was not measured."""
    ratios = step_ratios().get(name)
    if ratios is None:
        return ""
    cached = f", and {ratios['cached']:.2f} with a cached teacher" if "cached" in ratios else ""
    return (
        "Cost: a training step, resnet32x4 to resnet8x4 on a CPU, takes "
        f"{ratios['default']:.2f} times the time of the student's step and the teacher's forward "
        f"pass in plain PyTorch{cached} (`python benchmarks/speed.py`)."
    )


def step_ratios() -> dict[str, dict[str, float]]:
    """Return the ratios of `benchmarks/speed.py` by method and variant."""
    return {
        name: {variant: row["ratio"] for variant, row in variants.items()}
        for file in SPEED
        for name, variants in json.loads(file.read_text())["results"]["rows"].items()
    }

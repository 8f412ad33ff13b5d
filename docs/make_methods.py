"""Write docs/methods.md from the docstrings of the losses: python docs/make_methods.py."""

import inspect
import json
import re
from pathlib import Path

from distillers.distillation import recipes
from distillers.losses import wiring
from distillers.losses.wiring import needs

RESULTS = Path(__file__).parents[1] / "benchmarks/results"
PAGE = Path(__file__).with_name("methods.md")
HEAD = Path(__file__).with_name("methods_head.txt").read_text()


def page() -> str:
    """Return the whole page."""
    return (
        HEAD
        + table()
        + "".join(section(name, cls) for name, cls in sorted(wiring.losses().items()))
    )


def table() -> str:
    """Return a table of what each method needs, and the measured time of its step."""
    files = [RESULTS / f"{name}.json" for name in ("speed", "second")]
    rows: dict[str, dict] = {}
    for file in filter(Path.exists, files):
        rows |= json.loads(file.read_text())["results"]["rows"]
    lines = ["| method | needs | cost |", "|---|---|---|"]
    for name, cls in sorted(wiring.losses().items()):
        cost = f"{rows[name]['default']['ratio']:.2f}" if name in rows else ""
        title = cls.__name__
        lines.append(f"| [{title}](#{title.lower()}) | {', '.join(needs(cls))} | {cost} |")
    return "\n".join(lines) + "\n"


def section(name: str, cls: type) -> str:
    """Return the section of one method."""
    rows = [recipes.recipe(protocol, name) for protocol in ("crd", "simkd")]
    weights = ", ".join(
        f"{protocol} {row.ce:g} / {row.kd:g} / {row.method:g}"
        for protocol, row in zip(("crd", "simkd"), rows, strict=True)
    )
    options = ", ".join(f"`{key}={value!r}`" for key, value in wiring.options(cls).items())
    lines = [
        f"\n## {cls.__name__}\n",
        f"`--distill {name}` · weights: {weights}\n",
        f"reads {names(wiring.forward_inputs(cls.forward))}"
        + (
            f" · needs {names(wiring.constructor_facts(cls))}"
            if wiring.constructor_facts(cls)
            else ""
        )
        + (f" · options {options}" if options else "")
        + "\n",
        f"{markdown(inspect.getdoc(cls) or '')}\n",
    ]
    return "\n".join(lines)


def names(each: tuple[str, ...]) -> str:
    """Format names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in each)


def markdown(docstring: str) -> str:
    """Format a docstring as Markdown, with Args, Raises, Attributes and Returns as lists."""
    lines: list[str] = []
    listing = False
    for line in docstring.splitlines():
        heading = re.fullmatch(r"(Args|Raises|Attributes|Returns):", line)
        entry = re.match(r" {4}(\w+): (.*)", line) if listing else None
        listing = bool(heading) or (listing and line.startswith(" "))
        if heading:
            lines += [f"*{heading[1]}*\n"]
        elif entry:
            lines += [f"* `{entry[1]}`: {entry[2]}"]
        else:
            lines += [line.strip() if listing else line]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())

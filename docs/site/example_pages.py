"""Run an example, a script in percent format, and show it with its output and figures."""

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import jupytext
import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("agg")
EXAMPLES = Path(__file__).parents[2] / "examples"
EXTRA = ("lightning", "transformers")  # an example that imports one may be shown without its output


def notebooks() -> list[Path]:
    """Return the examples that are shown: the scripts with cells."""
    return [path for path in sorted(EXAMPLES.glob("*.py")) if "\n# %%" in path.read_text()]


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Run an example cell by cell; return its Markdown and its figures as PNG by file name.

    Args:
        path: the script; its cells share one namespace, whose `__name__` is "__main__". Where a
            package of the extra `examples` is missing that it imports, it is shown without output.
    """
    absent = missing(path)
    lines: list[str] = []
    figures: dict[str, bytes] = {}
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "markdown":
            lines += [cell.source]
            continue
        lines += [f"```python\n{cell.source}\n```"]
        if absent:
            continue
        if text := run(cell.source, namespace, path):
            lines += [f"```text\n{text}\n```"]
        for figure in _figures():
            name = f"{path.stem}-{len(figures)}.png"
            figures[name] = figure
            lines += [f"![Figure drawn by this cell]({name})"]
    if absent:
        lines += [f"Not run here, because {' and '.join(absent)} is not installed."]
    link = f"This page is `examples/{path.name}`, which also opens as a notebook with jupytext."
    return "\n\n".join([*lines, link]) + "\n", figures


def missing(path: Path) -> list[str]:
    """Return the packages of the extra `examples` that a script imports and that are missing."""
    imported = re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.M)
    return [name for name in EXTRA if name in imported and find_spec(name) is None]


def run(source: str, namespace: dict[str, object], path: Path) -> str:
    """Run a cell and return what it prints."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        exec(compile(source, str(path), "exec"), namespace)
    return printed.getvalue().rstrip()


def _figures() -> list[bytes]:
    drawn = []
    for number in plt.get_fignums():
        buffer = io.BytesIO()
        plt.figure(number).savefig(buffer, format="png", dpi=110)
        drawn.append(buffer.getvalue())
    plt.close("all")
    return drawn

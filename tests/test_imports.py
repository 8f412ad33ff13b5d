"""The packages of `distillers`: their order, their files, and what CONTRIBUTING says of them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from distillers.cli.main import COMMANDS

ROOT = Path(__file__).parents[1] / "distillers"
# Each may import itself and what stands before it.
ORDER = (
    *("errors", "files", "progress", "timing", "config", "distributed", "data", "features"),
    *("models", "losses", "checkpoints", "distillation", "training", "figures", "report"),
    *("sweep", "cli"),
)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line of each import of `distillers` and the name right below it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "distillers":
            names = [f"distillers.{alias.name}" for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.startswith("distillers."):
                yield node.lineno, name.split(".")[1]


def test_packages_import_in_one_direction() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if package in ("__init__", "__main__"):  # the public names, from everywhere
            continue
        before = ("__version__", *ORDER[: ORDER.index(package) + 1])
        found = imported(ast.parse(path.read_text()))
        wrong += [f"{path}:{line}: {name}" for line, name in found if name not in before]
    assert not wrong, "\n".join(wrong)


def test_the_top_folder_stays_small() -> None:
    assert len([path for path in ROOT.iterdir() if path.name != "__pycache__"]) <= 20


def test_contributing_names_files_that_exist() -> None:
    root = ROOT.parent
    text = (root / "CONTRIBUTING.md").read_text()
    names = {name.removeprefix("./") for name in re.findall(r"`([\w./]+/\w*|[\w./]+\.py)`", text)}
    assert len(names) > 20
    for name in names:
        assert (root / name).exists() or any(ROOT.rglob(name)), name


def test_every_command_is_a_file_and_a_line() -> None:
    files = {path.stem for path in (ROOT / "cli/commands").glob("*.py")} - {"__init__"}
    assert files == COMMANDS.keys()

"""The packages of `distillers`: their order, their files, and what CONTRIBUTING says of them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from distillers.cli.main import COMMANDS

ROOT = Path(__file__).parents[1] / "distillers"
# Each may import itself and what stands before it.
ORDER = (
    *("errors", "files", "progress", "timing", "config", "distributed", "data", "features"),
    *("models", "losses", "checkpoints", "distillation", "training", "figures", "report"),
    *("sweep", "cli"),
)


@cache
def trees() -> dict[Path, ast.Module]:
    """Return the syntax tree of every module."""
    return {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


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
    for path, tree in trees().items():
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if package in ("__init__", "__main__"):  # the public names, from everywhere
            continue
        before = ("__version__", *ORDER[: ORDER.index(package) + 1])
        found = imported(tree)
        wrong += [f"{path}:{line}: {name}" for line, name in found if name not in before]
    assert not wrong, "\n".join(wrong)


def test_no_function_has_more_than_50_lines_without_its_docstring() -> None:
    long = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                text = node.body[0] if ast.get_docstring(node) is not None else None
                skipped = text.end_lineno - text.lineno + 1 if text else 0
                if node.end_lineno - node.lineno + 1 - skipped > 50:
                    long.append(f"{path}:{node.lineno}: {node.name}")
    assert not long, "\n".join(long)


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

"""The packages of `distillers` import in one direction, so that no two of them form a cycle."""

import ast
from collections.abc import Iterator
from pathlib import Path

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

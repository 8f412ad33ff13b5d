"""Find the commands in the shell blocks of the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL = ("sh", "bash", "shell", "console")
OTHER = ("python", "yaml", "text")
STARTS = ("distillers ", "python ", "./dev", "pip ", "torchrun ", "srun ")


def pages() -> list[Path]:
    """Return every page for readers, and the examples, whose comments may have blocks."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.py")]
    return sorted(found)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the lines of each fenced block, in comments too."""
    text = re.sub(r"^# ?", "", text, flags=re.M) if "\n# ```" in text else text
    yield from re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.S | re.M)


def commands(page: Path) -> list[str]:
    """Return the commands of the shell blocks of a page: a line each, joined where continued."""
    lines = [
        line.strip()
        for language, block in blocks(page.read_text())
        if language in SHELL
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [re.sub(r"  +", " ", line) for line in lines if line and not line.startswith("#")]


def outside_of_blocks(page: Path) -> list[str]:
    """Return lines that look like commands, but are not in a fenced block of shell commands."""
    text = page.read_text()
    lines = [
        line
        for language, block in blocks(text)
        if language not in SHELL
        for line in block.splitlines()
    ]
    if page.suffix == ".md":
        fenced = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
        lines += re.findall(r"^    (?! )(.*)", fenced, re.M)
    return [line for line in lines if line.strip().startswith(STARTS)]

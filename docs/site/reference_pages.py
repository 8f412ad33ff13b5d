"""The pages of the reference: every public name, and the help of every command."""

import os
import subprocess
import sys

import distillers
from distillers.cli.main import COMMANDS
from distillers.losses import wiring

# Title and public names of each page.
PUBLIC = {
    "distillers": ("Train and load networks", sorted(distillers._LAZY)),
    "distillers.losses": ("Losses", sorted(cls.__name__ for cls in wiring.losses().values())),
    "distillers.models": ("Networks", ["create", "names"]),
    "distillers.data": (
        "Data sets",
        [
            *("Batch", "DataSource", "DecodeOptions", "HeldOut", "ImageSet", "Loader"),
            *("hold_out", "load", "names", "source_of"),
        ],
    ),
    "distillers.report": ("Reports", ["load_runs"]),
    "distillers.errors": (
        "Errors and exit statuses",
        [
            *("CorruptFileError", "InputError", "LimitExceededError", "NonFiniteLossError"),
            *("PeerLostError", "PreemptedError"),
        ],
    ),
    "distillers.distributed.collectives": (
        "Collectives with gradient",
        ["all_gather_rows", "all_gather_stack"],
    ),
}


def pages() -> dict[str, str]:
    """Return the Markdown of each page of the reference by its name."""
    return {name: _module(name, *what) for name, what in PUBLIC.items()}


def _module(module: str, title: str, names: list[str]) -> str:
    entries = "\n\n".join(f"::: {module}.{name}" for name in names)
    return f"# {title}\n\n`{module}`\n\n{entries}\n"


def commands() -> str:
    """Return the page with the help of every command."""
    sections = [f"## {name}\n\n```text\n{_help(name)}\n```" for name in COMMANDS]
    return "# Commands\n\n" + "\n\n".join(sections) + "\n"


def _help(command: str) -> str:
    words = [sys.executable, "-m", "distillers", command, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        words, capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()

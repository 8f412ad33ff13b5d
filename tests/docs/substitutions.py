"""Read `substitutions.yml`, and apply it to the commands of a page."""

import re
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

TABLE = yaml.safe_load(Path(__file__).with_suffix(".yml").read_text())
TRAINING = re.compile(r"(train_(teacher|student)|transfer_student)\.py(?!.*(--epochs|\$F))")
ONE_EPOCH = " --epochs 1"  # of every training for which the page prints no --epochs


@dataclass(frozen=True)
class Plan:
    """What is done with a printed command: it runs, or it is only parsed for a reason."""

    runs: str
    reason: str = ""
    status: int = 0  # with which it may end, beside 0


class Table:
    """The table, and how often each of its entries was used."""

    def __init__(self) -> None:
        self.used: Counter[tuple[str, ...]] = Counter()

    def plan(self, page: str, printed: str) -> Plan:
        """Return what is done with a command of a page."""
        runs = self.replace(page, printed)
        if reason := self.find("parsed", page, runs):
            return Plan(runs, reason)
        for entry in map(tuple, TABLE["packages"]):
            if entry[0] in runs:
                self.used[entry] += 1
                if find_spec(entry[1]) is None:
                    return Plan(runs, f"needs {entry[1]}")
        return Plan(runs, status=self.find("statuses", page, runs) or 0)

    def replace(self, page: str, command: str) -> str:
        """Return the command with all replacements, and with `--epochs` where none is printed."""
        for entry in map(tuple, TABLE["replaced"]):
            if entry[0] in ("*", page) and entry[1] in command:
                command = command.replace(entry[1], entry[2])
                self.used[entry] += 1
        if TRAINING.search(command):
            command = command.split(" #")[0].rstrip() + ONE_EPOCH
        return command

    def find(self, part: str, page: str, command: str):
        """Return the last column of the first entry for a command of a page, or None."""
        for entry in map(tuple, TABLE[part]):
            if entry[0] in ("*", page) and command.startswith(entry[1]):
                self.used[entry] += 1
                return entry[2]
        return None

    def unused(self) -> list[tuple[str, ...]]:
        """Return the entries that no command has used."""
        parts = ("replaced", "parsed", "statuses", "packages")
        return [tuple(entry) for part in parts for entry in TABLE[part] if not self.used[(*entry,)]]

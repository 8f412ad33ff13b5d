"""A report: run folders read, grouped and compared, ready to be written in any form."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distillers.errors import InputError
from distillers.report import comparisons, runs
from distillers.report.comparisons import Comparison
from distillers.report.estimates import Estimate, estimate
from distillers.report.runs import UnreadableRun


@dataclass(frozen=True)
class Report:
    """What run folders say together.

    Attributes:
        tables: one a pair of networks and setting, those of networks alone last.
        not_counted: folders that are damaged, unfinished or copies.
        num_runs: how many are counted.
        num_rows: methods times pairs, that is groups of runs.
    """

    tables: tuple[Comparison, ...]
    not_counted: tuple[UnreadableRun, ...]
    num_runs: int
    num_rows: int

    def overviews(self) -> list["Overview"]:
        """Methods by pairs, for each data set and protocol with more than one pair."""
        same: dict[tuple[str, str], list[Comparison]] = {}
        for table in self.tables:
            if table.teacher:
                same.setdefault((table.dataset, table.protocol), []).append(table)
        return [Overview(*key, tuple(tables)) for key, tables in same.items() if len(tables) > 1]


@dataclass(frozen=True)
class Overview:
    """A table of methods by pairs.

    Attributes:
        dataset: of all its pairs.
        protocol: likewise.
        tables: one a column.
    """

    dataset: str
    protocol: str
    tables: tuple[Comparison, ...]

    def labels(self) -> list[str]:
        """Its rows: those with the best mean rank first, then those not in every column."""
        every = dict.fromkeys(row.label for table in self.tables for row in table.rows)
        columns = [{row.label for row in table.rows} for table in self.tables]

        def place(label: str) -> tuple[int, float]:
            missing = sum(label not in column for column in columns)
            rank = self.mean_rank(label, "own")
            return missing, float("inf") if rank is None else rank

        return sorted(every, key=place)

    def scores(self, label: str, rule: str) -> list[Estimate | None]:
        """A row's cells; the rule "own" is what the protocol reports."""
        rows = [(table.by_label.get(label), _rule(table, rule)) for table in self.tables]
        return [row.scores.get(by) if row else None for row, by in rows]

    def average(self, label: str, rule: str) -> float | None:
        """The mean of a row's cells, where it has all of them."""
        means = [cell.mean for cell in self.scores(label, rule) if cell]
        return estimate(means).mean if len(means) == len(self.tables) else None

    def mean_rank(self, label: str, rule: str) -> float | None:
        """The mean of a row's ranks, where it has one in every column."""
        rows = [(table.by_label.get(label), _rule(table, rule)) for table in self.tables]
        ranks = [row.ranks[by] for row, by in rows if row and by in row.ranks]
        return estimate(ranks).mean if len(ranks) == len(self.tables) else None


def _rule(table: Comparison, rule: str) -> str:
    return table.rule if rule == "own" else rule


def build(roots: Iterable[Path], baseline: str | None = None) -> Report:
    """Read every run folder in some trees.

    Args:
        roots: run folders, or folders with run folders somewhere in them.
        baseline: see `distillers.report.comparisons.compare`.

    Raises:
        InputError: when a folder does not exist, holds no run folder at all, or no table has the
            baseline.
    """
    roots = list(roots)
    folders = runs.find(roots)
    if not folders:
        raise InputError(f"there is no run folder in {', '.join(map(str, roots))}.")
    every = runs.read_all(folders)
    groups, copies = comparisons.unite(run for run in every if isinstance(run, runs.Run))
    tables = comparisons.compare(groups, baseline)
    damaged = [each for each in every if isinstance(each, UnreadableRun)]
    return Report(
        tables=tuple(tables),
        not_counted=tuple(sorted([*damaged, *copies], key=lambda each: each.folder)),
        num_runs=sum(map(len, groups)),
        num_rows=len(groups),
    )

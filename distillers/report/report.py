"""Building a report from run folders."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillers.errors import InputError
from distillers.report.comparisons import MethodRow, PairTable, build_tables, group_seeds
from distillers.report.estimates import SampleStats
from distillers.report.records import RunRecord, UnreadableRun
from distillers.report.runs import find_run_dirs, read_runs


@dataclass(frozen=True)
class Report:
    """Comparison of all runs below some folders.

    Attributes:
        tables: one for each pair of networks, data set and protocol; those without teacher last.
        not_counted: folders that are damaged, unfinished or copies.
        num_runs: number of counted runs.
        num_rows: number of groups of seeds.
        unverified: folders of counted runs whose files have no checksums.
    """

    tables: tuple[PairTable, ...]
    not_counted: tuple[UnreadableRun, ...]
    num_runs: int
    num_rows: int
    unverified: tuple[str, ...]

    def overviews(self) -> list["Overview"]:
        """Return one overview for each data set and protocol with more than one pair."""
        by_protocol: dict[tuple[str, str], list[PairTable]] = defaultdict(list)
        for table in self.tables:
            if table.teacher:
                by_protocol[table.dataset, table.protocol].append(table)
        return [Overview(*k, tuple(tables)) for k, tables in by_protocol.items() if len(tables) > 1]


@dataclass(frozen=True)
class Overview:
    """A table of methods by pairs of networks.

    A rule is "last", "best", or "own" for what the protocol reports.
    """

    dataset: str
    protocol: str
    tables: tuple[PairTable, ...]

    def labels(self) -> list[str]:
        """Return the row labels, those in every column first, then by mean rank."""
        labels = dict.fromkeys(row.label for table in self.tables for row in table.rows)

        def order(label: str) -> tuple[int, float]:
            missing = sum(label not in table.by_label for table in self.tables)
            rank = self.mean_rank(label, "own")
            return missing, float("inf") if rank is None else rank

        return sorted(labels, key=order)

    def scores(self, label: str, rule: str) -> list[SampleStats | None]:
        """Return the cells of a row."""
        return [row.scores.get(by) if row else None for row, by in self._cells(label, rule)]

    def means(self, label: str, rule: str) -> list[float | None]:
        """Return the means of the cells of a row."""
        return [score.mean if score else None for score in self.scores(label, rule)]

    def by_rule(self, method: str, *args: str) -> dict[str, Any]:
        """Return the result of a method of this class for each selectable rule."""
        return {rule: getattr(self, method)(*args, rule) for rule in ("own", "last", "best")}

    def best(self, rule: str) -> list[float | None]:
        """Return the largest rounded mean of each column."""
        columns = zip(*(self.scores(label, rule) for label in self.labels()), strict=True)
        return [max((s.rounded_mean for s in column if s), default=None) for column in columns]

    def average(self, label: str, rule: str) -> float | None:
        """Return the mean of a row's cells; None if one is missing."""
        return self._mean([score.mean for score in self.scores(label, rule) if score])

    def mean_rank(self, label: str, rule: str) -> float | None:
        """Return the mean rank of a row; None if it lacks one in a column."""
        cells = self._cells(label, rule)
        return self._mean([row.ranks[by] for row, by in cells if row and by in row.ranks])

    def _cells(self, label: str, rule: str) -> list[tuple[MethodRow | None, str]]:
        return [(t.by_label.get(label), t.rule if rule == "own" else rule) for t in self.tables]

    def _mean(self, values: list[float]) -> float | None:
        return SampleStats(values).mean if len(values) == len(self.tables) else None


def build_report(roots: Iterable[Path], baseline: str | None = None) -> Report:
    """Read every run folder below some folders and compare the runs.

    Raises:
        InputError: if a folder does not exist, there is no run folder, or no table has the
            baseline.
    """
    roots = list(roots)
    folders = find_run_dirs(roots)
    if not folders:
        raise InputError(f"there is no run folder in {', '.join(map(str, roots))}.")
    found = read_runs(folders)
    groups, copies = group_seeds([run for run in found if isinstance(run, RunRecord)])
    damaged = [run for run in found if isinstance(run, UnreadableRun)]
    return Report(
        tables=tuple(build_tables(groups, baseline)),
        not_counted=tuple(sorted([*damaged, *copies], key=lambda run: run.folder)),
        num_runs=sum(map(len, groups)),
        num_rows=len(groups),
        unverified=tuple(run.folder for group in groups for run in group if not run.is_verified),
    )

"""A report's tables as plain text, for the forms that have no pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from distillers.report.comparisons import Comparison, Row
from distillers.report.report import Overview, Report
from distillers.report.wording import (
    MISSING,
    RULE_NAMES,
    compact,
    described,
    interval,
    percent,
    scaled,
    signed,
    time_unit,
    with_sd,
)


@dataclass(frozen=True)
class Grid:
    """A table of texts, the first row its heads.

    Attributes:
        title: what it is of.
        note: what else to say of all of it.
        rows: the heads, then the rows; all of one length.
        bold: (row, column) of cells to stress.
        text_columns: how many columns from the left are words, not numbers.
    """

    title: str
    note: str
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = field(default=frozenset())
    text_columns: int = 1


def grids(report: Report) -> list[Grid]:
    """Every table of a report."""
    made = [overview(each) for each in report.overviews()]
    for table in report.tables:
        made += [accuracy(table), cost(table)]
    if report.not_counted:
        rows = [["Folder", "State", "Why"]]
        rows += [[each.folder, each.kind, each.reason] for each in report.not_counted]
        made.append(Grid("Not counted", "", rows, text_columns=3))
    return made


def overview(each: Overview) -> Grid:
    """Methods by pairs, by what the protocol reports."""
    rows = [["Method", *(table.pair for table in each.tables), "Average", "Mean rank"]]
    labels = each.labels()
    for label in labels:
        cells = [f"{with_sd(s)} ({s.n})" if s else MISSING for s in each.scores(label, "own")]
        average, rank = each.average(label, "own"), each.mean_rank(label, "own")
        rows.append(
            [
                label,
                *cells,
                MISSING if average is None else percent(average),
                MISSING if rank is None else f"{rank:.1f}",
            ]
        )
    return Grid(
        f"{each.dataset}, protocol {each.protocol}",
        "Test accuracy in percent, mean ± standard deviation (runs).",
        rows,
    )


def accuracy(table: Comparison) -> Grid:
    """One pair's methods: both rules, the baseline, and what is published."""
    rules = table.rules
    heads = ["Method" if table.teacher else "Network", "Rank", "n"]
    heads += [RULE_NAMES[rule].capitalize() for rule in rules]
    heads += [f"Difference to {table.baseline}"] if table.baseline else []
    rows, bold = [[*heads, "Published"]], set()
    for row in table.rows:
        rank = row.ranks.get(table.rule)
        line = [row.label, MISSING if rank is None else str(rank), str(len(row.runs))]
        for rule in rules:
            if row.ranks.get(rule) == 1:
                bold.add((len(rows), len(line)))
            line.append(with_sd(row.scores[rule]))
        if table.baseline:
            found = row.differences.get(table.rule)
            line.append(f"{signed(found.value)} {interval(found)}".strip() if found else MISSING)
        rows.append([*line, published(row, table.rule)])
    parts = [f"{table.dataset}, protocol {table.protocol}, {RULE_NAMES[table.rule]} reported"]
    parts.append(described(table.setting, with_rate=table.teacher is not None))
    if table.teacher_accuracy is not None:
        parts.append(f"teacher {percent(table.teacher_accuracy)}")
    return Grid(f"{table.pair}: test accuracy, %", "; ".join(parts) + ".", rows, frozenset(bold))


def published(row: Row, rule: str) -> str:
    """The published number that compares best with a row, with its source and rule."""
    if not row.beside:
        return MISSING
    first = row.nearest(rule)[0]
    parts = [first.entry.source, RULE_NAMES.get(first.entry.rule, "epoch not told")]
    if first.difference is not None:
        parts.append(f"difference {signed(first.difference)}")
    parts += first.departures
    return f"{percent(first.entry.mean)} ({', '.join(parts)})"


def cost(table: Comparison) -> Grid:
    """One pair's methods: what training took, and what the deployed network takes."""
    unit, factor = time_unit(row.device_hours.mean for row in table.rows)
    names = ("Images/s", "Peak memory, MiB", "Parameters", "MACs", "Latency, ms")
    rows = [["Method" if table.teacher else "Network", "Trained on", f"Training, {unit}", *names]]
    for row in table.rows:
        counts = [row.cost(name) for name in ("parameters", "macs")]
        rows.append(
            [
                row.label,
                " and ".join(row.devices),
                with_sd(scaled(row.device_hours, factor)),
                *(with_sd(row.cost(n), 0) for n in ("images_per_second", "peak_memory_mib")),
                *(compact(count.mean) if count else MISSING for count in counts),
                with_sd(row.cost("latency_ms")),
            ]
        )
    note = f"{table.dataset}, protocol {table.protocol}."
    return Grid(f"{table.pair}: cost", note, rows, text_columns=2)

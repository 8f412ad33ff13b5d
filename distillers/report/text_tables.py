"""The report's tables as data frames of text, and their Markdown and LaTeX."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pandas import DataFrame

from distillers.report.comparisons import MethodRow, PairTable
from distillers.report.formatting import (
    MISSING,
    RULE_NAMES,
    describe_training,
    format_count,
    format_interval,
    format_percent,
    format_signed,
    format_stats,
    time_unit,
)
from distillers.report.report import Overview, Report

LATEX = {
    **{char: f"\\{char}" for char in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",  # babel makes it a command in some languages
    "[": "{[}",  # after \\ a bracket would be an option, and * a star
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\to$",
    "×": r"$\times$",
    "–": "--",
}
MARKDOWN = r"[\\`*\[\]<>|#]|(?<![^\W_])_|_(?![^\W_])"


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: its subject.
        note: details that hold for the whole table.
        frame: the cells.
        bold: (row, column) of emphasized cells.
        text_columns: number of columns, from the left, that hold words and not numbers.
    """

    title: str
    note: str
    frame: DataFrame
    bold: frozenset[tuple[int, int]] = frozenset()
    text_columns: int = 1

    def to_markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        cells = _escape_cells(self, escape_markdown, "**{}**")
        rule = [":--" if x < self.text_columns else "--:" for x in range(len(self.frame.columns))]
        lines = [[escape_markdown(head) for head in self.frame.columns], rule, *cells]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        note = f"{escape_markdown(self.note)}\n\n" if self.note else ""
        return f"\n## {escape_markdown(self.title)}\n\n{note}{text}\n"

    def to_latex(self) -> str:
        """Return the table as a LaTeX table of the package booktabs."""
        cells = _escape_cells(self, escape_latex, r"\textbf{{{}}}")
        frame = DataFrame(cells, columns=[escape_latex(head) for head in self.frame.columns])
        numbers = len(frame.columns) - self.text_columns
        return "\n" + frame.style.hide(axis="index").to_latex(
            hrules=True,
            column_format="l" * self.text_columns + "r" * numbers,
            caption=escape_latex(f"{self.title}. {self.note}".strip()),
            position_float="centering",
        )


def text_tables(report: Report) -> list[TextTable]:
    """Return every table of a report."""
    tables = [overview_table(overview) for overview in report.overviews()]
    for table in report.tables:
        tables += [accuracy_table(table), cost_table(table)]
    if report.not_counted:
        rows = [(run.folder, run.kind, run.reason) for run in report.not_counted]
        frame = DataFrame(rows, columns=["Folder", "State", "Reason"])
        tables.append(TextTable("Not counted", "", frame, text_columns=3))
    return tables


def overview_table(overview: Overview) -> TextTable:
    """Return methods by pairs, by the rule that the protocol reports."""
    rows = []
    for label in overview.labels():
        scores = overview.scores(label, "own")
        rank = overview.mean_rank(label, "own")
        rows.append(
            [
                label,
                *(f"{format_stats(s)} ({s.n})" if s else MISSING for s in scores),
                format_percent(overview.average(label, "own")),
                MISSING if rank is None else f"{rank:.1f}",
            ]
        )
    pairs = [table.pair for table in overview.tables]
    return TextTable(
        f"{overview.dataset}, protocol {overview.protocol}",
        "Test accuracy in percent, mean ± standard deviation (runs).",
        DataFrame(rows, columns=["Method", *pairs, "Average", "Mean rank"]),
    )


def accuracy_table(table: PairTable) -> TextTable:
    """Return the accuracies of one pair, the difference to the baseline and published results."""
    rows, bold = [], set()
    for row in table.rows:
        cells = [row.label, str(row.ranks.get(table.rule, MISSING)), str(len(row.runs))]
        for rule in table.rules:
            if row.ranks.get(rule) == 1:
                bold.add((len(rows), len(cells)))
            cells.append(format_stats(row.scores[rule]))
        if table.baseline:
            delta = row.differences.get(table.rule)
            text = f"{format_signed(delta.value)} {format_interval(delta)}" if delta else MISSING
            cells.append(text.strip())
        rows.append([*cells, describe_published(row, table.rule)])
    heads = [*_first_heads(table, "Rank", "n"), *(RULE_NAMES[r].capitalize() for r in table.rules)]
    heads += [f"Difference to {table.baseline}"] if table.baseline else []
    note = f"{table.dataset}, protocol {table.protocol}, {RULE_NAMES[table.rule]} reported; "
    note += describe_training(table)
    if table.teacher_accuracy is not None:
        note += f"; teacher {format_percent(table.teacher_accuracy)}"
    frame = DataFrame(rows, columns=[*heads, "Published"])
    return TextTable(f"{table.pair}: accuracy, %", f"{note}.", frame, frozenset(bold))


def describe_published(row: MethodRow, rule: str) -> str:
    """Describe the published result that is most comparable, with source and rule."""
    if not row.published:
        return MISSING
    first = row.sorted_published(rule)[0]
    parts = [first.entry.source, RULE_NAMES.get(first.entry.rule, "unknown epoch")]
    if first.difference is not None:
        parts.append(f"difference {format_signed(first.difference)}")
    return f"{format_percent(first.entry.mean)} ({', '.join([*parts, *first.departures])})"


def cost_table(table: PairTable) -> TextTable:
    """Return the cost of training and of the deployed network for one pair."""
    unit, per_hour = time_unit(row.device_hours.mean for row in table.rows)
    rows = []
    for row in table.rows:
        counts = [row.cost(name) for name in ("parameters", "macs")]
        rows.append(
            [
                row.label,
                " and ".join(row.devices),
                format_stats(row.device_hours.scaled(per_hour)),
                *(format_stats(row.cost(n), 0) for n in ("images_per_second", "peak_memory_mib")),
                *(format_count(count.mean) if count else MISSING for count in counts),
                format_stats(row.cost("latency_ms")),
            ]
        )
    heads = _first_heads(table, "Trained on", f"Training, {unit}", "Images/s", "Peak memory, MiB")
    frame = DataFrame(rows, columns=[*heads, "Parameters", "MACs", "Latency, ms"])
    note = f"{table.dataset}, protocol {table.protocol}."
    return TextTable(f"{table.pair}: cost", note, frame, text_columns=2)


def escape_markdown(text: str) -> str:
    """Escape Markdown syntax; underscores inside words need no escape."""
    return re.sub(MARKDOWN, r"\\\g<0>", text).replace("&", "&amp;")


def escape_latex(text: str) -> str:
    """Escape LaTeX syntax."""
    return "".join(LATEX.get(char, char) for char in text)


def _first_heads(table: PairTable, *others: str) -> list[str]:
    return ["Method" if table.teacher else "Network", *others]


def _escape_cells(table: TextTable, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    return [
        [
            bold.format(escape(text)) if (y, x) in table.bold else escape(text)
            for x, text in enumerate(row)
        ]
        for y, row in enumerate(table.frame.to_numpy())
    ]

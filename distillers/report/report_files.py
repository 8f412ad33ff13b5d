"""A report's files: the page, and the same as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distillers.report.comparisons import Comparison, Row
from distillers.report.grids import Grid, grids
from distillers.report.page import page
from distillers.report.report import Report
from distillers.report.runs import RULES

LATEX = {
    **{char: f"\\{char}" for char in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",  # which a language may have made a command
    "[": "{[}",  # which would be an option where it follows a line's end, as * would
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\to$",
    "×": r"$\times$",
    "–": "--",
}
MARKDOWN = "\\`*_[]<>|#"


def write(report: Report, out: Path, forms: Iterable[str]) -> list[Path]:
    """Write a report into a folder.

    Args:
        report: what to write.
        out: the folder; made where it is not there.
        forms: "html", "markdown", "csv", "latex".

    Returns:
        the files.
    """
    makers = {
        "html": ("report.html", page),
        "markdown": ("report.md", markdown),
        "csv": ("report.csv", table_of_rows),
        "latex": ("report.tex", latex),
    }
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for form in dict.fromkeys(forms):
        name, make = makers[form]
        (out / name).write_text(make(report), encoding="utf-8")
        written.append(out / name)
    return written


def markdown(report: Report) -> str:
    """The tables in GitHub's Markdown."""
    return "# Report of runs\n" + "".join(_markdown(grid) for grid in grids(report))


def latex(report: Report) -> str:
    """The tables as tables of the package booktabs, to be taken into a paper."""
    head = "% Needs \\usepackage{booktabs} and UTF-8.\n"
    return head + "".join(_latex(grid) for grid in grids(report))


def table_of_rows(report: Report) -> str:
    """Every row of every table as a line of CSV, its numbers in full precision."""
    lines = [_line(table, row) for table in report.tables for row in table.rows]
    text = io.StringIO()
    columns = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _markdown(grid: Grid) -> str:
    heads, *rows = [
        [f"**{text}**" if (y, x) in grid.bold else text for x, text in enumerate(map(_marked, row))]
        for y, row in enumerate(grid.rows)
    ]
    rule = [":--" if x < grid.text_columns else "--:" for x in range(len(heads))]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])
    note = f"{_marked(grid.note)}\n\n" if grid.note else ""
    return f"\n## {_marked(grid.title)}\n\n{note}{lines}\n"


def _marked(text: str) -> str:
    """Text in which Markdown finds nothing to do; underscores within a word it leaves alone."""
    escaped = []
    for place, char in enumerate(text):
        inside = (
            char == "_" and text[place - 1 : place].isalnum() and text[place + 1 :][:1].isalnum()
        )
        escaped.append(f"\\{char}" if char in MARKDOWN and not inside else char)
    return "".join(escaped).replace("&", "&amp;")


def _latex(grid: Grid) -> str:
    columns = "l" * grid.text_columns + "r" * (len(grid.rows[0]) - grid.text_columns)
    heads, *rows = [
        " & ".join(
            rf"\textbf{{{_typeset(text)}}}" if (y, x) in grid.bold else _typeset(text)
            for x, text in enumerate(row)
        )
        for y, row in enumerate(grid.rows)
    ]
    body = "".join(f"    {row} \\\\\n" for row in rows)
    note = f" {_typeset(grid.note)}" if grid.note else ""
    return (
        f"\n\\begin{{table}}\n  \\centering\n  \\caption{{{_typeset(grid.title)}.{note}}}\n"
        f"  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n    {heads} \\\\\n    \\midrule\n"
        f"{body}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def _typeset(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in text)


def _line(table: Comparison, row: Row) -> dict[str, Any]:
    run = row.runs[0]
    line: dict[str, Any] = {
        "dataset": table.dataset,
        "protocol": table.protocol,
        "teacher": table.teacher or "",
        "student": run.student,
        "method": run.method,
        "row": row.label,
        "loss": row.formula,
        "n": len(row.runs),
        "trials": " ".join(str(each.trial) for each in row.runs),
        "rule": table.rule,
        "rank": row.ranks.get(table.rule),
        "teacher_accuracy": table.teacher_accuracy,
    }
    for rule in RULES:
        score = row.scores.get(rule)
        line |= {f"{rule}_mean": score and score.mean, f"{rule}_sd": score and score.sd}
    found = row.differences.get(table.rule)
    line["baseline"] = table.baseline
    line |= {"difference": found and found.value}
    line |= {"difference_low": found and found.low, "difference_high": found and found.high}
    nearest = row.nearest(table.rule)
    first = nearest[0] if nearest else None
    line |= {
        "published": first and first.entry.mean,
        "published_source": first and first.entry.source,
        "published_rule": first and first.entry.rule,
        "published_difference": first and first.difference,
        "published_trained_otherwise": first and "; ".join(first.departures),
        "published_others": "; ".join(
            f"{b.entry.mean} ({b.entry.source}, {b.entry.rule})" for b in nearest[1:]
        ),
        "device": " and ".join(row.devices),
        "device_hours_mean": row.device_hours.mean,
        "device_hours_sd": row.device_hours.sd,
    }
    for name in ("images_per_second", "peak_memory_mib", "latency_ms"):
        known = row.cost(name)
        line |= {f"{name}_mean": known and known.mean, f"{name}_sd": known and known.sd}
    for name in ("parameters", "macs"):
        known = row.cost(name)
        line[name] = known and (int(known.mean) if known.mean == int(known.mean) else known.mean)
    return line


def _plain(value: object) -> object:
    """A value for CSV; a text that a spreadsheet would take for a formula begins with a quote."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return "" if value is None else value

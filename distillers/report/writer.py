"""Writing a report as HTML, Markdown, CSV and LaTeX."""

from collections.abc import Callable, Iterable
from pathlib import Path

from pandas import DataFrame

from distillers.files import write_text
from distillers.report.comparisons import MethodRow, PairTable
from distillers.report.estimates import SampleStats
from distillers.report.page import render_page
from distillers.report.records import RULES
from distillers.report.report import Report
from distillers.report.text_tables import text_tables


def write_report(report: Report, out: Path, formats: Iterable[str]) -> list[Path]:
    """Write "html", "markdown", "csv" or "latex" files to a folder and return their paths."""
    renderers: dict[str, tuple[str, Callable[[Report], str]]] = {
        "html": ("report.html", render_page),
        "markdown": ("report.md", render_markdown),
        "csv": ("report.csv", render_csv),
        "latex": ("report.tex", render_latex),
    }
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, render in (renderers[each] for each in dict.fromkeys(formats)):
        write_text(out / name, render(report))
        written.append(out / name)
    return written


def render_markdown(report: Report) -> str:
    """Return the tables in GitHub's Markdown."""
    tables = (table.to_markdown() for table in text_tables(report))
    return "# Report of runs\n" + "".join(tables)


def render_latex(report: Report) -> str:
    """Return the tables as LaTeX tables of the package booktabs."""
    head = "% Needs \\usepackage{booktabs} and UTF-8.\n"
    return head + "".join(table.to_latex() for table in text_tables(report))


def render_csv(report: Report) -> str:
    """Return `to_frame(report)` as CSV in full precision, safe to open in a spreadsheet."""
    lines = to_frame(report).to_dict("records")
    safe = [{name: _escape_formula(value) for name, value in line.items()} for line in lines]
    return DataFrame(safe, dtype=object).to_csv(index=False, lineterminator="\n")


def to_frame(report: Report) -> DataFrame:
    """Return a data frame with one line for every row of every table of pairs."""
    lines = [_line(table, row) for table in report.tables for row in table.rows]
    return DataFrame(lines, dtype=object)


def _line(table: PairTable, row: MethodRow) -> dict[str, object]:
    delta = row.differences.get(table.rule)
    first, *others = row.sorted_published(table.rule) or [None]
    return {
        "dataset": table.dataset,
        "protocol": table.protocol,
        "teacher": table.teacher,
        "student": row.runs[0].student,
        "method": row.runs[0].method,
        "row": row.label,
        "loss": row.formula,
        "n": len(row.runs),
        "trials": " ".join(str(run.trial) for run in row.runs),
        "rule": table.rule,
        "rank": row.ranks.get(table.rule),
        "teacher_accuracy": table.teacher_accuracy,
        **{k: v for rule in RULES for k, v in _stats(rule, row.scores.get(rule)).items()},
        "baseline": table.baseline,
        "difference": delta and delta.value,
        "difference_low": delta and delta.low,
        "difference_high": delta and delta.high,
        "published": first and first.entry.mean,
        "published_source": first and first.entry.source,
        "published_rule": first and first.entry.rule,
        "published_difference": first and first.difference,
        "published_trained_otherwise": first and "; ".join(first.departures),
        "published_others": "; ".join(
            f"{p.entry.mean} ({p.entry.source}, {p.entry.rule})" for p in others if p
        ),
        "device": " and ".join(row.devices),
        **_stats("device_hours", row.device_hours),
        **_stats("images_per_second", row.cost("images_per_second")),
        **_stats("peak_memory_mib", row.cost("peak_memory_mib")),
        **_stats("latency_ms", row.cost("latency_ms")),
        "parameters": _count(row.cost("parameters")),
        "macs": _count(row.cost("macs")),
    }


def _stats(name: str, stats: SampleStats | None) -> dict[str, float | None]:
    known = (stats.mean, stats.sd) if stats else (None, None)
    return dict(zip((f"{name}_mean", f"{name}_sd"), known, strict=True))


def _count(stats: SampleStats | None) -> float | None:
    if stats is None:
        return None
    return int(stats.mean) if stats.mean == int(stats.mean) else stats.mean


def _escape_formula(value: object) -> object:
    """Prefix a string that a spreadsheet would run as a formula with a quote."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value

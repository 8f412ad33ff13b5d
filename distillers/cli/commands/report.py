"""`distillers report`: compare finished runs on a page and in tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from distillers.config.parsing import parse
from distillers.config.sizes import pluralize
from distillers.errors import InputError

NAMED = 20  # folders that the terminal names
Format = Literal["html", "markdown", "csv", "latex"]


@dataclass(frozen=True)
class ReportConfig:
    """Compare finished runs with each other and with published results."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUNS...")]
    """Run folders, or folders that contain run folders, such as ./save."""
    out: str = "./report"
    """Output folder; files of an earlier report are replaced."""
    baseline: str | None = None
    """Row that the others are compared with, such as "alone" or "kd (ce=1, kd=1)". Default: kd, or
    the student trained alone if there is no kd."""
    format: tuple[Format, ...] = ("html", "markdown", "csv", "latex")
    """Formats to write."""


def main(args: Sequence[str]) -> None:
    """Read the runs, write the report, and print which runs were left out."""
    config = parse(ReportConfig, args, "distillers report")
    if not config.runs:
        raise InputError("no folder was given, as in `distillers report ./save`.")

    if not config.format:
        raise InputError("--format names nothing to write: html, markdown, csv, latex.")

    from distillers.report.report import build_report
    from distillers.report.writer import write_report

    report = build_report([Path(path) for path in config.runs], config.baseline)
    rows, tables = pluralize(report.num_rows, "row"), pluralize(len(report.tables), "table")
    print(f"{pluralize(report.num_runs, 'run')} in {rows}, {tables}")
    for each in report.not_counted[:NAMED]:
        print(f"not counted, {each.kind}: {each.folder}: {each.reason}")
    if len(report.not_counted) > NAMED:
        print(f"and {len(report.not_counted) - NAMED} more that do not count; the report has all")
    if report.unverified:
        print(
            f"not verified: {pluralize(len(report.unverified), 'run')} of an earlier version, "
            f"whose files have no checksums, such as {report.unverified[0]}"
        )
    for path in write_report(report, Path(config.out), config.format):
        print(f"wrote {path}")

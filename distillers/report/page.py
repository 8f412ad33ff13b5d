"""The report as one self-contained HTML page, from `templates/page.html`."""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace

from distillers.config.sizes import pluralize
from distillers.report import charts, formatting
from distillers.report.charts import (
    CostChart,
    CurveChart,
    Point,
    Scale,
    Style,
    padded_range,
    style_of,
)
from distillers.report.comparisons import MethodRow, PairTable
from distillers.report.formatting import MISSING, RULE_NAMES, time_unit
from distillers.report.html import page_environment, template_source
from distillers.report.report import Report

MAX_CHART_ROWS = 12
MIN_CURVE_EPOCHS = 2
STRIP_WIDTH = 160  # of the chart of single runs in each row
MAX_LISTED_RUNS = 20  # accuracies in a tooltip


def render_page(report: Report) -> str:
    """Render the page; the same runs give the same bytes."""
    styles = _styles(report)
    environment = page_environment()
    script = template_source(environment, "page.js")
    environment.filters |= {
        name: getattr(formatting, f"format_{name}")
        for name in ("count", "interval", "percent", "signed", "stats")
    }
    return environment.get_template("page.html").render(
        report=report,
        title=_title(report),
        facts=_facts(report),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        css=template_source(environment, "page.css"),
        styles=styles,
        views=[_view(table) for table in report.tables],
        rule_names=RULE_NAMES,
        missing=MISSING,
        strip_width=STRIP_WIDTH,
        max_listed_runs=MAX_LISTED_RUNS,
        max_label=charts.MAX_LABEL,
        pluralize=pluralize,
    )


def _styles(report: Report) -> dict[str, Style]:
    """Return one style for each row label on the page."""
    labels = dict.fromkeys(row.label for table in report.tables for row in table.rows)
    alone = {row.label for t in report.tables if t.teacher for row in t.rows if row.is_alone}
    numbers = iter(range(len(labels)))
    return {label: style_of(None if label in alone else next(numbers)) for label in labels}


def _title(report: Report) -> str:
    pairs = [table for table in report.tables if table.teacher]
    if len({table.pair for table in pairs}) == 1:
        return f"{pairs[0].pair} on {', '.join(dict.fromkeys(t.dataset for t in pairs))}"
    datasets = dict.fromkeys(table.dataset for table in report.tables)
    return f"Distillation on {', '.join(datasets)}" if datasets else "No finished run"


def _facts(report: Report) -> list[tuple[str, int]]:
    """Return the counts at the top of the page."""
    pairs = {(t.dataset, t.teacher, t.student) for t in report.tables if t.teacher}
    methods = {row.label for t in report.tables if t.teacher for row in t.rows if not row.is_alone}
    return [
        ("run" if report.num_runs == 1 else "runs", report.num_runs),
        ("method" if len(methods) == 1 else "methods", len(methods)),
        ("pair" if len(pairs) == 1 else "pairs", len(pairs)),
        (f"folder{'s' * (len(report.not_counted) != 1)} not counted", len(report.not_counted)),
    ]


def _view(table: PairTable) -> SimpleNamespace:
    """Return what the template needs of a table besides the table: axes, units and charts."""
    values = {
        rule: [run.scores[rule] for row in table.rows for run in row.runs] for rule in table.rules
    }
    axis = 5, STRIP_WIDTH - 5
    rows = _chart_rows(table)
    longest = max((len(row.mean_curve) for row in rows), default=0)
    has_curves = longest >= MIN_CURVE_EPOCHS
    unit, per_hour = time_unit(row.device_hours.mean for row in table.rows)
    return SimpleNamespace(
        table=table,
        training=formatting.describe_training(table),
        unit=unit,
        per_hour=per_hour,
        devices=list(dict.fromkeys(" and ".join(row.devices) for row in table.rows)),
        ends={rule: (min(each), max(each)) for rule, each in values.items()},
        scales={r: Scale(*padded_range(v, 0.04), *axis) for r, v in values.items()},
        chart_rows=len(rows),
        costs=_cost_charts(table, rows),
        curves=CurveChart(rows, table.teacher_accuracy) if has_curves else None,
    )


def _chart_rows(table: PairTable) -> list[MethodRow]:
    """Return the best rows, the baseline and the student alone; none if there is one row only."""
    rows = [
        row
        for place, row in enumerate(table.rows)
        if place < MAX_CHART_ROWS or row.is_alone or row.label == table.baseline
    ]
    return rows if table.teacher and len(rows) > 1 else []


def _cost_charts(table: PairTable, rows: Sequence[MethodRow]) -> list[CostChart]:
    """Lay out accuracy against time, throughput and memory, for each device with several rows."""
    by_device: dict[str, list[MethodRow]] = defaultdict(list)
    for row in rows:
        if len(row.devices) == 1:
            by_device[row.devices[0]].append(row)
    found: list[CostChart] = []
    for device, members in by_device.items():
        unit, per_hour = time_unit(row.device_hours.mean for row in members)
        where = f" on {device}" if len(by_device) > 1 else ""
        hours = [row.device_hours.scaled(per_hour) for row in members]
        speed, memory = (
            [row.cost(name) for row in members] for name in ("images_per_second", "peak_memory_mib")
        )
        for name, costs, more_is_better in (
            (f"{'hours' if unit == 'h' else unit} of training", hours, False),
            ("images/s in training", speed, True),
            ("MiB at the peak", memory, False),
        ):
            pairs = zip(members, costs, strict=True)
            scores = [(row, row.scores[table.rule], cost) for row, cost in pairs if cost]
            points = [Point(row.label, cost.mean, s.mean, s.sd) for row, s, cost in scores]
            if len(points) > 1:
                found.append(CostChart(points, name + where, more_is_better))
    return found

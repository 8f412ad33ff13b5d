"""The report as one HTML page that needs nothing else: no network, no other file."""

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from importlib.resources import files

from distillers.report import page_overview, page_tables, pictures
from distillers.report.comparisons import Comparison, Row
from distillers.report.marks import Style, spread
from distillers.report.pictures import Line, Point
from distillers.report.report import Report
from distillers.report.wording import RULE_NAMES, described, percent, plural, scaled, time_unit

DRAWN = 12  # methods in one picture
CURVE = 2  # epochs from which on a curve is one


def page(report: Report) -> str:
    """The whole page; the same runs give the same bytes."""
    css, script = _file("page.css"), _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    styles = _styles(report)
    body = "".join(
        [
            _head(report),
            _controls(report),
            "<main>",
            *(page_overview.overview(each, n, styles) for n, each in enumerate(report.overviews())),
            *(_section(table, n, styles) for n, table in enumerate(report.tables)),
            page_overview.not_counted(report.not_counted),
            _reading(),
            "</main>",
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en" data-rule="own">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(_title(report))}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        f"{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def anchor(number: int) -> str:
    """The name of a table's section within the page."""
    return f"table-{number}"


def _file(name: str) -> str:
    return files("distillers.report").joinpath(name).read_text(encoding="utf-8")


def _styles(report: Report) -> dict[str, Style]:
    """One look for each method on the whole page."""
    labels: dict[str, None] = {}
    alone = set()
    for table in report.tables:
        for row in table.rows:
            labels.setdefault(row.label)
            if row.alone and table.teacher:
                alone.add(row.label)
    numbers = iter(range(len(labels)))
    return {label: Style(-1 if label in alone else next(numbers)) for label in labels}


def _title(report: Report) -> str:
    pairs = [table for table in report.tables if table.teacher]
    if len({table.pair for table in pairs}) == 1:
        return f"{pairs[0].pair} on {', '.join(dict.fromkeys(t.dataset for t in pairs))}"
    datasets = dict.fromkeys(table.dataset for table in report.tables)
    return f"Distillation on {', '.join(datasets)}" if datasets else "No finished run"


def _head(report: Report) -> str:
    pairs = {(t.dataset, t.teacher, t.student) for t in report.tables if t.teacher}
    methods = {row.label for t in report.tables if t.teacher for row in t.rows if not row.alone}
    facts = [
        ("run", report.num_runs),
        ("method", len(methods)),
        ("pair", len(pairs)),
        ("folder not counted", len(report.not_counted)),
    ]
    told = "".join(
        f"<div><dt>{_noun(noun, number)}</dt><dd>{number:,}</dd></div>" for noun, number in facts
    )
    return (
        f'<header><p class="kicker">Report of runs</p><h1>{escape(_title(report))}</h1>'
        f'<dl class="facts">{told}</dl>{_contents(report)}</header>'
    )


def _noun(noun: str, number: int) -> str:
    if number == 1:
        return noun
    return noun.replace("folder", "folders") if "folder" in noun else noun + "s"


def _contents(report: Report) -> str:
    if len(report.tables) < 3:
        return ""
    links = "".join(
        f'<li><a href="#{anchor(n)}">{escape(table.pair)}</a> '
        f"<span>{escape(_where(table))}</span></li>"
        for n, table in enumerate(report.tables)
    )
    return f'<nav aria-label="Tables"><ol class="contents">{links}</ol></nav>'


def _where(table: Comparison) -> str:
    return f"{table.dataset} · {table.protocol}"


def _controls(report: Report) -> str:
    rules = {"own": "as the protocol reports"}
    rules |= {rule: RULE_NAMES[rule] for rule in ("last", "best")}
    radios = "".join(
        f'<label><input type="radio" name="rule" value="{rule}"{" checked" * (rule == "own")}>'
        f"<span>{name}</span></label>"
        for rule, name in rules.items()
    )
    selects = _select("dataset", "Data set", (t.dataset for t in report.tables))
    selects += _select("protocol", "Protocol", (t.protocol for t in report.tables))
    return (
        '<form class="controls" role="search" aria-label="Filter the tables">'
        '<label class="field">Filter<input type="search" id="filter" autocomplete="off" '
        f'placeholder="method, network, …"></label>{selects}'
        f'<fieldset><legend>Accuracy of</legend><div class="radios">{radios}</div></fieldset>'
        '<output id="count" role="status" aria-live="polite"></output></form>'
    )


def _select(name: str, title: str, values: Iterable[str]) -> str:
    names = sorted(set(values))
    if len(names) < 2:
        return ""
    options = "".join(f'<option value="{escape(n)}">{escape(n)}</option>' for n in names)
    return (
        f'<label class="field">{title}<select id="{name}"><option value="">all</option>{options}'
        "</select></label>"
    )


def _section(table: Comparison, number: int, styles: dict[str, Style]) -> str:
    setting = described(table.setting, with_rate=table.teacher is not None)
    facts = [escape(_where(table)), escape(setting)]
    if table.teacher_accuracy is not None:
        facts.append(f"teacher {percent(table.teacher_accuracy)} %")
    title = table.pair if table.teacher else f"Networks without a teacher on {table.dataset}"
    return (
        f'<section class="table" id="{anchor(number)}" data-dataset="{escape(table.dataset)}" '
        f'data-protocol="{escape(table.protocol)}"><h2>{escape(title)}</h2>'
        f'<p class="facts-line">{" · ".join(facts)}</p>'
        f"{page_tables.results(table, styles)}{_pictures(table, styles)}"
        f"{page_tables.costs(table, styles)}{_provenance(table)}</section>"
    )


def _pictures(table: Comparison, styles: dict[str, Style]) -> str:
    rows = _drawn(table)
    if not table.teacher or len(rows) < 2:
        return ""
    left_out = len(table.rows) - len(rows)
    which = f" The {len(rows)} of {len(table.rows)} that lead." if left_out else ""
    costs = "".join(_cost_pictures(table, rows, styles))
    of_cost = ""
    if costs:
        of_cost = (
            f'<figure><div class="panels">{costs}</div><figcaption><b>Accuracy and what it '
            f"costs.</b> Test accuracy of the {RULE_NAMES[table.rule]} against the cost of one "
            "training run; bars are one standard deviation. Beyond the dashed line there is "
            f"nothing: no method is both cheaper and better.{which}</figcaption></figure>"
        )
    lines = [Line(row.label, styles[row.label], _mean_curve(row)) for row in rows]
    longest = max(len(line.values) for line in lines)
    if longest < CURVE:
        return of_cost
    part = " The axis leaves out the first steep rise." if longest >= pictures.LONG else ""
    return (
        f'{of_cost}<figure><div class="scroll">'
        f"{pictures.curves_picture(lines, table.teacher_accuracy)}</div><figcaption>"
        f"<b>Learning curves.</b> Mean test accuracy over the runs of each method.{part}{which}"
        "</figcaption></figure>"
    )


def _drawn(table: Comparison) -> list[Row]:
    """The best rows, and those that one compares with."""
    kept = list(table.rows[:DRAWN])
    return [*kept, *(row for row in table.rows[DRAWN:] if row.alone or row.label == table.baseline)]


def _mean_curve(row: Row) -> list[float]:
    curves = [run.curve for run in row.runs]
    return [sum(epoch) / len(epoch) for epoch in zip(*curves, strict=True)]


def _cost_pictures(table: Comparison, rows: list[Row], styles: dict[str, Style]) -> list[str]:
    """Accuracy against time, speed and memory, for each device on which several rows trained."""
    on: dict[str, list[Row]] = {}
    for row in rows:
        if len(row.devices) == 1:
            on.setdefault(row.devices[0], []).append(row)
    drawn = []
    for device, of_device in on.items():
        if len(of_device) < 2:
            continue
        unit, factor = time_unit(row.device_hours.mean for row in of_device)
        hours = {row.label: scaled(row.device_hours, factor) for row in of_device}
        speed = {row.label: row.cost("images_per_second") for row in of_device}
        memory = {row.label: row.cost("peak_memory_mib") for row in of_device}
        where = f" on {device}" if len(on) > 1 else ""
        for name, costs, more in (
            (f"{'hours' if unit == 'h' else unit} of training{where}", hours, False),
            (f"images/s in training{where}", speed, True),
            (f"MiB at the peak{where}", memory, False),
        ):
            points = [
                Point(
                    row.label,
                    styles[row.label],
                    cost.mean,
                    row.scores[table.rule].mean,
                    row.scores[table.rule].sd,
                )
                for row in of_device
                if (cost := costs[row.label]) is not None
            ]
            if len(points) > 1:
                ends = [p.y + sign * (p.sd or 0) for p in points for sign in (-1, 1)]
                drawn.append(pictures.cost_picture(points, name, more, *spread(ends, 0.06)))
    return drawn


def _provenance(table: Comparison) -> str:
    """Which folders the numbers come from, and what ran."""
    items = "".join(
        f"<li><b>{escape(row.label)}</b><ul>"
        + "".join(
            f"<li><code>{escape(run.folder)}</code> trial {run.trial}, {escape(run.device)}, "
            f"{escape(run.versions)}</li>"
            for run in row.runs
        )
        + "</ul></li>"
        for row in table.rows
    )
    runs = plural(sum(len(row.runs) for row in table.rows), "run")
    return (
        f'<details class="folders"><summary>Folders of {runs}</summary><ul>{items}</ul></details>'
    )


def _reading() -> str:
    return (
        '<section class="reading"><h2>How to read this</h2><dl>'
        "<dt>Rows</dt><dd>Runs that differ in nothing but their trial, the seed. What follows a "
        "method in round brackets is not as its protocol publishes it, what follows in square "
        "brackets not as in most rows.</dd>"
        "<dt>± and n</dt><dd>Standard deviation over the n runs, with n − 1.</dd>"
        "<dt>Last and best</dt><dd>Test accuracy in percent after the last epoch, and of the epoch "
        "that is best on the test images themselves, which reads too high. The protocol crd "
        "reports the last, simkd the best; where images were held out, both report the epoch that "
        "is best on those.</dd>"
        "<dt>Difference</dt><dd>To the row that the column's head names, with Welch's 95 % "
        "confidence interval, each row by itself. One run has none. In bold: it leaves out "
        "zero.</dd>"
        "<dt>Rank</dt><dd>Among the methods of a table; equal means share the better rank.</dd>"
        "<dt>Published</dt><dd>What a source prints for the same pair, protocol, weights and "
        "options, by its own rule; the difference is given where rule and training agree.</dd>"
        "<dt>Cost</dt><dd>Time is wall-clock time times devices, scoring and saving included; "
        "images/s the median over epochs of training alone; memory the peak of a GPU's tensors, or "
        "of the whole process on a CPU. Parameters, multiply-accumulates and milliseconds for one "
        "image are those of the network that is deployed.</dd></dl></section>"
    )

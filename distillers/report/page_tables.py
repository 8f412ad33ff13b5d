"""The tables of one pair: accuracy, and cost."""

from html import escape

from distillers.report import cells
from distillers.report.comparisons import Beside, Comparison, Row
from distillers.report.estimates import Estimate
from distillers.report.marks import STRIP, Scale, Style, spread, strip
from distillers.report.wording import (
    MISSING,
    RULE_NAMES,
    compact,
    interval,
    percent,
    scaled,
    signed,
    time_unit,
    with_sd,
)


def results(table: Comparison, styles: dict[str, Style]) -> str:
    """Accuracy of every row, beside the baseline and what is published."""
    first = "Method" if table.teacher else "Network"
    heads = [cells.head(first), *([cells.head("Rank", "num")] if table.teacher else [])]
    heads += [cells.head("n", "num"), _strip_head(table)]
    heads += [cells.head(RULE_NAMES[rule].capitalize(), "num") for rule in table.rules]
    if table.baseline:
        heads.append(cells.head(f"Difference to {table.baseline}", "num"))
    beside = any(row.beside for row in table.rows)
    if beside:
        heads.append(cells.head("Published", "pub"))
    scales = {
        rule: Scale(*spread(_values(table, rule), 0.04), 5, STRIP - 5) for rule in table.rules
    }
    lines = []
    for row in table.rows:
        style = styles[row.label]
        parts = [cells.method(row, row.label, style, with_formula=table.teacher is not None)]
        parts += [_rank(table, row)] if table.teacher else []
        parts.append(cells.number(len(row.runs), f"{len(row.runs):,}"))
        strips = {rule: _strip(table, row, rule, scales[rule], style) for rule in table.rules}
        parts.append(cells.by_rule(strips, table.rule, "runs"))
        parts += [_score(table, row, rule) for rule in table.rules]
        if table.baseline:
            parts.append(_difference(table, row))
        if beside:
            parts.append(_published(row, table.rule))
        lines.append(cells.line(_words(table, row), row.label, parts))
    return cells.table("Test accuracy, %", heads, lines, "results")


def costs(table: Comparison, styles: dict[str, Style]) -> str:
    """What training took, and what the deployed network takes."""
    unit, factor = time_unit(row.device_hours.mean for row in table.rows)
    devices = {" and ".join(row.devices): None for row in table.rows}
    heads = [cells.head("Method" if table.teacher else "Network")]
    heads += [cells.head("Trained on")] if len(devices) > 1 else []
    titles = (f"Training, {unit}", "Images/s", "Peak memory, MiB", "Parameters", "MACs")
    heads += [cells.head(title, "num") for title in (*titles, "Latency, ms")]
    lines = []
    for row in table.rows:
        device = escape(" and ".join(row.devices))
        parts = [
            cells.method(row, row.label, styles[row.label], with_formula=False),
            f'<td data-v="{device}">{device}</td>' if len(devices) > 1 else "",
            _estimated(scaled(row.device_hours, factor), 2),
            _estimated(row.cost("images_per_second"), 0),
            _estimated(row.cost("peak_memory_mib"), 0),
            _counted(row.cost("parameters")),
            _counted(row.cost("macs")),
            _estimated(row.cost("latency_ms"), 2),
        ]
        lines.append(cells.line(_words(table, row), row.label, parts))
    where = f", on {next(iter(devices))}" if len(devices) == 1 else ""
    caption = f"Cost of a run, and of the deployed network{where}"
    return cells.table(caption, heads, lines, "costs")


def _words(table: Comparison, row: Row) -> list[str]:
    return [row.label, row.formula, table.pair, table.dataset]


def _values(table: Comparison, rule: str) -> list[float]:
    return [run.scores[rule] for row in table.rows for run in row.runs]


def _strip_head(table: Comparison) -> str:
    ends = {}
    for rule in table.rules:
        values = _values(table, rule)
        ends[rule] = f"{percent(min(values))} to {percent(max(values))}"
    shown = cells.spans(ends, table.rule)
    return f'<th scope="col" class="runs">Each run <span class="ends">{shown}</span></th>'


def _strip(table: Comparison, row: Row, rule: str, scale: Scale, style: Style) -> cells.Content:
    base = table.by_label[table.baseline].scores[rule].mean if table.baseline else None
    return None, strip([run.scores[rule] for run in row.runs], style, scale, base)


def _rank(table: Comparison, row: Row) -> str:
    ranks = {
        rule: cells.or_missing(row.ranks.get(rule), f"{row.ranks.get(rule)}")
        for rule in table.rules
    }
    return cells.by_rule(ranks, table.rule, "num rank")


def _score(table: Comparison, row: Row, rule: str) -> str:
    best = row.ranks.get(rule) == 1 and len(table.rows) > 1
    kind = f"score{' own' * (rule == table.rule)}{' top' * best}"
    return cells.number(row.scores[rule].mean, _spread(row.scores[rule], 2), kind)


def _difference(table: Comparison, row: Row) -> str:
    contents: dict[str, cells.Content] = {}
    for rule in table.rules:
        found = row.differences.get(rule)
        if found is None:
            contents[rule] = (0.0, "baseline") if row.label == table.baseline else (None, MISSING)
            continue
        low, high = found.low or 0, found.high or 0
        sure = " sure" * (low > 0 or high < 0)
        ends = f'<span class="interval">{interval(found)}</span>'
        contents[rule] = (found.value, f'<b class="delta{sure}">{signed(found.value)}</b> {ends}')
    return cells.by_rule(contents, table.rule, "num difference")


def _published(row: Row, rule: str) -> str:
    """Published numbers, the one that can be compared by the protocol's rule first."""
    if not row.beside:
        return f'<td class="pub">{MISSING}</td>'
    ordered = row.nearest(rule)
    first, *others = (_one_published(beside) for beside in ordered)
    told = f"<summary>{len(others)} more</summary>{''.join(others)}"
    more = f"<details>{told}</details>" if others else ""
    return f'<td class="pub" data-v="{ordered[0].entry.mean!r}">{first}{more}</td>'


def _one_published(beside: Beside) -> str:
    entry = beside.entry
    spread = f" ± {percent(entry.sd)}" if entry.sd is not None else ""
    count = f" (n = {entry.n})" if entry.n else ""
    rule = RULE_NAMES.get(entry.rule, "epoch not told")
    told = f"<b>{percent(entry.mean)}</b>{spread}{count}"
    if beside.difference is not None:
        told += f' <span class="delta">{signed(beside.difference)}</span>'
    source = ", ".join(filter(None, [entry.source, rule, entry.remark]))
    told += f' <span class="source">{escape(source)}</span>'
    if beside.departures:
        apart = f"trained otherwise: {'; '.join(beside.departures)}"
        told += f' <span class="source">{escape(apart)}</span>'
    return f'<p data-v="{entry.mean!r}">{told}</p>'


def _spread(score: Estimate, digits: int) -> str:
    mean, _, sd = with_sd(score, digits).partition(" ")
    return f'{mean} <span class="sd">{sd}</span>' if sd else mean


def _estimated(found: Estimate | None, digits: int) -> str:
    if found is None:
        return cells.number(None, MISSING)
    return cells.number(found.mean, _spread(found, digits))


def _counted(found: Estimate | None) -> str:
    """A count that is the same in every run, or else their mean."""
    if found is None:
        return cells.number(None, MISSING)
    exact = f"{found.mean:,.0f}"
    return cells.number(found.mean, f'<abbr title="{exact}">{compact(found.mean)}</abbr>')

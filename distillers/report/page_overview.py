"""The tables that look at all runs: methods by pairs, and the folders that do not count."""

from collections.abc import Sequence
from html import escape

from distillers.report import cells
from distillers.report.estimates import Estimate
from distillers.report.marks import Style
from distillers.report.report import Overview
from distillers.report.runs import UnreadableRun
from distillers.report.wording import MISSING, with_sd

RULES = ("own", "last", "best")


def overview(each: Overview, number: int, styles: dict[str, Style]) -> str:
    """Methods by pairs of one data set and protocol."""
    heads = [cells.head("Method")]
    heads += [cells.head(table.pair, "num") for table in each.tables]
    heads += [cells.head("Average", "num"), cells.head("Mean rank", "num")]
    labels = each.labels()
    scores = {rule: [each.scores(label, rule) for label in labels] for rule in RULES}
    best = {
        rule: [_largest(column) for column in zip(*scores[rule], strict=True)] for rule in RULES
    }
    lines = []
    for place, label in enumerate(labels):
        row = next(table.by_label[label] for table in each.tables if label in table.by_label)
        parts = [cells.method(row, label, styles[label], with_formula=False)]
        for column in range(len(each.tables)):
            found = {rule: _cell(scores[rule][place][column], best[rule][column]) for rule in RULES}
            parts += [cells.by_rule(found, "own")]
        averages = {rule: each.average(label, rule) for rule in RULES}
        ranks = {rule: each.mean_rank(label, rule) for rule in RULES}
        for found, digits in ((averages, 2), (ranks, 1)):
            told = {r: cells.or_missing(v, f"{v or 0:.{digits}f}") for r, v in found.items()}
            parts += [cells.by_rule(told, "own")]
        words = [label, each.dataset, *(table.pair for table in each.tables)]
        lines.append(cells.line(words, label, parts))
    caption = "Test accuracy, %; the best of each pair in bold"
    return (
        f'<section class="table" id="overview-{number}" data-dataset="{escape(each.dataset)}" '
        f'data-protocol="{escape(each.protocol)}"><h2>{escape(each.dataset)} '
        f'<span class="soft">protocol {escape(each.protocol)}</span></h2>'
        f"{cells.table(caption, heads, lines, 'matrix')}</section>"
    )


def not_counted(folders: Sequence[UnreadableRun]) -> str:
    """The folders that no number comes from, and why."""
    if not folders:
        return ""
    heads = [cells.head(title) for title in ("Folder", "State", "Why")]
    lines = [
        f'<tr><th scope="row" data-v="{escape(each.folder)}">'
        f"<code>{escape(each.folder)}</code></th>"
        f'<td data-v="{each.kind}"><span class="state {each.kind}">{each.kind}</span></td>'
        f'<td data-v="{escape(each.reason)}">{escape(each.reason)}</td></tr>'
        for each in folders
    ]
    caption = "Folders that no number here comes from"
    return (
        '<section id="not-counted"><h2>Not counted</h2>'
        f"{cells.table(caption, heads, lines, 'left-out')}</section>"
    )


def _largest(column: Sequence[Estimate | None]) -> float | None:
    return max((cell.even for cell in column if cell), default=None)


def _cell(score: Estimate | None, best: float | None) -> cells.Content:
    if score is None:
        return None, MISSING
    mean, _, sd = with_sd(score).partition(" ")
    text = f"<b>{mean}</b>" if score.even == best else mean
    return score.mean, f'{text} <span class="sd">{sd} ({score.n})</span>'

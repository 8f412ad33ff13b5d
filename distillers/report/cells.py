"""The smallest parts of the HTML page's tables."""

from collections.abc import Mapping, Sequence
from html import escape

from distillers.report.comparisons import Row
from distillers.report.marks import Style, swatch
from distillers.report.wording import MISSING

Content = tuple[float | None, str]  # what to sort by, and HTML


def table(caption: str, heads: Sequence[str], lines: Sequence[str], kind: str) -> str:
    """A table that scrolls sideways where it must, by keyboard too.

    Args:
        caption: plain text.
        heads: as `head` gives them.
        lines: the rows, `<tr>...</tr>`.
        kind: its class.
    """
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{kind}"><caption>{escape(caption)}</caption><thead><tr>{"".join(heads)}'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def head(title: str, kind: str = "") -> str:
    """A column's head, a button that sorts by the column.

    Args:
        title: plain text.
        kind: its class; one with "falls" is sorted with the largest first.
    """
    return (
        f'<th scope="col" class="{kind}" aria-sort="none"><button type="button">{escape(title)}'
        "</button></th>"
    )


def line(words: Sequence[str], label: str, cells: Sequence[str]) -> str:
    """A row.

    Args:
        words: what the filter looks in.
        label: of the method, by which pictures find it.
        cells: its cells.
    """
    text = escape(" ".join(words).lower())
    return f'<tr data-t="{text}" data-m="{escape(label)}">{"".join(cells)}</tr>'


def method(row: Row, label: str, style: Style, with_formula: bool) -> str:
    """The head of a row: its mark, its name, and perhaps what was minimised."""
    formula = f'<span class="formula">{escape(row.formula)}</span>' if with_formula else ""
    return (
        f'<th scope="row" data-v="{escape(label)}"><span class="method">{swatch(style)}'
        f"<span>{escape(label)}{formula}</span></span></th>"
    )


def number(value: float | None, text: str, kind: str = "") -> str:
    """A cell with a number, sorted by its full precision."""
    sort = "" if value is None else f' data-v="{value!r}"'
    return f'<td class="num {kind}"{sort}>{text}</td>'


def by_rule(contents: Mapping[str, Content], own: str, kind: str = "num") -> str:
    """A cell whose content is another for each rule that the reader may choose.

    Args:
        contents: by rule; under "own" what the protocol reports, where no rule is that.
        own: the rule that the protocol reports.
        kind: the cell's class.
    """
    sorts = {rule: value for rule, (value, _) in contents.items() if value is not None}
    if own in sorts:
        sorts["own"] = sorts[own]
    data = "".join(f' data-{rule.replace("_", "-")}="{value!r}"' for rule, value in sorts.items())
    return f'<td class="{kind}"{data}>{spans({r: c for r, (_, c) in contents.items()}, own)}</td>'


def spans(contents: Mapping[str, str], own: str) -> str:
    """HTML of which the page shows that of the chosen rule."""
    return "".join(
        f'<span class="r {rule}{" own" * (rule == own)}">{content}</span>'
        for rule, content in contents.items()
    )


def or_missing(value: float | None, text: str) -> Content:
    """Content that may not be there."""
    return value, text if value is not None else MISSING

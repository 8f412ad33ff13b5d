"""The HTML page: its numbers, safety, and behaviour in a browser."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from distillers.report import charts, page, report
from distillers.report.charts import Point, Scale, round_step
from tests import browser as browsing
from tests import recompute
from tests.run_folders import write_run

RANDOM = np.random.default_rng(2)
METHODS, STUDENTS = ("kd", "at", "crd"), ("resnet14", "resnet8")
BASE = "kd"
ODD = "<script>alert(1)</script><img src=http://x.invalid/a onerror=alert(2)>\"'&amp;"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Runs of two pairs, of two networks trained alone, and an unfinished run."""
    root = tmp_path_factory.mktemp("grid")
    for student in STUDENTS:
        for method in (*METHODS, None):
            for trial in range({"at": 2, "crd": 1}.get(method, 3)):
                mean = {"kd": 60, "at": 62, "crd": 64, None: 55}[method]
                accuracies = np.clip(RANDOM.normal(mean, 2, 5), 0, 100).round(1).tolist()
                network = {"model_s" if method else "model": student}
                write_run(root, method, trial=trial, accuracies=accuracies, **network)
    (write_run(root, "sp", accuracies=(1, 2)) / "metrics.jsonl").unlink()
    return root


@pytest.fixture(scope="module")
def written(grid, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.render_page(report.build_report([grid])), encoding="utf-8")
    return path


VOID = ("meta", "link", "input", "br", "img", "hr", "path", "circle")


class Balance(HTMLParser):
    """Check that tags are balanced and identifiers unique, and collect all attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.attributes = [], set(), []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        assert named.get("id") not in self.ids
        self.ids |= {named["id"]} if "id" in named else set()
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained(written):
    text = written.read_text()
    check = Balance()
    check.feed(text)
    assert check.open == []
    for tag, name, value in check.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "action", "data", "poster", "srcset"):
            assert value == "data:," or value[1:] in check.ids
    assert "@import" not in text
    assert "url(" not in text


def test_names_are_never_markup(tmp_path):
    write_run(tmp_path, "kd", dataset=ODD, name=ODD.replace("/", "-"), departures={ODD: ODD})
    write_run(tmp_path, "at", dataset=ODD, summary={"device": ODD}, lr_decay_rate=ODD)
    bad = write_run(tmp_path, "sp", name="bad" + ODD.replace("/", "-"))
    (bad / "config.json").write_text(f'{{"epochs": "{ODD[:20]}"}}')
    text = page.render_page(report.build_report([tmp_path]))
    check = Balance()
    check.feed(text)
    assert check.open == []
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert ODD in html.unescape(text)


def test_the_policy_allows_only_the_pages_own_script(written):
    import base64
    import hashlib

    text = written.read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_a_scale_has_round_ticks_inside():
    assert [round_step(x) for x in (0.3, 1, 1.2, 2.1, 7, 10)] == [0.5, 1, 2, 5, 10, 10]
    for low, high in ((0, 1), (71.3, 76.6), (-3, 900), (0.001, 0.0042)):
        ticks = Scale(low, high, 0, 100).ticks()
        assert 3 <= len(ticks) <= 8
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
        assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


@pytest.mark.parametrize("more_is_better", [True, False])
def test_the_pareto_front_has_the_points_that_no_other_dominates(more_is_better):
    """Compared with a brute-force search over all pairs."""
    for _ in range(50):
        xs, ys = RANDOM.integers(0, 6, 12), RANDOM.integers(0, 6, 12)
        points = [Point(str(n), x, y, None) for n, (x, y) in enumerate(zip(xs, ys, strict=True))]
        sign = 1 if more_is_better else -1
        worth = {(sign * p.x, p.y) for p in points}
        best = {
            (x, y)
            for x, y in worth
            if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in worth)
        }
        found = charts.pareto_front(points, more_is_better)
        assert {(sign * p.x, p.y) for p in found} == best
        assert len(found) == len(best)


def test_labels_are_separated_without_needless_moves():
    for _ in range(50):
        places = RANDOM.uniform(0, 100, 6).tolist()
        moved = charts.separate(places, 10, 0, 100)
        order = np.argsort(places, kind="stable")
        assert np.all(np.diff(np.array(moved)[order]) >= 10 - 1e-9)
        assert min(moved) >= 0
        assert max(moved) <= 100
    assert charts.separate([5, 50, 90], 10, 0, 100) == [5, 50, 90]


# All visible text of the page.
SEEN = """
const seen = node => [...node.childNodes].map(child => child.nodeType === 3
    ? child.data : child.tagName === 'svg' ? '' : seen(child)).join('');
const text = node => {
  const copy = node.cloneNode(true);
  const hidden = [...node.querySelectorAll('.r')].map(r => getComputedStyle(r).display === 'none');
  [...copy.querySelectorAll('.r')].forEach((r, i) => hidden[i] && r.remove());
  return seen(copy).replace(/\\s+/g, ' ').trim();
};
const title = cell => [...cell.querySelectorAll('.r')]
  .find(r => getComputedStyle(r).display !== 'none').querySelector('title').textContent;
return [...document.querySelectorAll('section.table')].filter(s => !s.hidden).map(section => ({
  title: section.querySelector('h2').textContent,
  facts: section.querySelector('.facts-line')?.textContent,
  tables: [...section.querySelectorAll('table')].map(table => ({
    kind: table.className,
    heads: [...table.tHead.rows[0].cells].map(text),
    rows: [...table.tBodies[0].rows].filter(r => !r.hidden).map(row =>
      [...row.cells].map(cell => cell.className === 'runs' ? title(cell) : text(cell))),
  })),
  curves: [...section.querySelectorAll('.curves .line text')].map(t => t.textContent),
  points: [...section.querySelectorAll('.point title')].map(t => t.textContent),
}));
"""


def signed(value):
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def spread(mean, sd, digits=2):
    return f"{mean:,.{digits}f}" + ("" if sd is None else f" ± {sd:,.{digits}f}")


def expected_row(raw, student, method, rule):
    """Return a row of the accuracy table, computed by the separate script."""
    mine = raw[name_of(student, method)]
    means = [recompute.figures(raw[name_of(student, m)], rule)[0] for m in METHODS]
    mean = recompute.figures(mine, rule)[0]
    delta = "baseline"
    if method != BASE:
        value, low, high = recompute.difference(mine, raw[name_of(student, BASE)], rule)
        delta = signed(value) + ("" if low is None else f" [{signed(low)}, {signed(high)}]")
    formula = "1 ce" if method == "alone" else f"1 ce + 0.5 {method}"
    return [
        f"{method}{formula}",
        "–" if method == "alone" else str(recompute.rank(mean, means)),
        str(len(mine)),
        ", ".join(f"{run[rule]:.2f}" for run in mine),
        *(spread(*recompute.figures(mine, each)) for each in ("last", "best")),
        delta,
    ]


def expected_cost(raw, student, method):
    """Return a row of the cost table."""
    mine = raw[name_of(student, method)]
    minutes = tuple(None if v is None else v * 60 for v in recompute.figures(mine, "hours"))
    return [
        method,
        spread(*minutes),
        spread(*recompute.figures(mine, "speed"), 0),
        spread(*recompute.figures(mine, "peak_memory_mib"), 0),
        *("78.0 k", "12.5 M"),
        spread(*recompute.figures(mine, "latency_ms")),
    ]


def name_of(student, method):
    if method == "alone":
        return f"{student}_vanilla_digits_trial"
    return f"S_{student}_T_resnet20_digits_{method}_r_1_a_0_b_1"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    if not browsing.IS_HERE:
        pytest.skip("chromium and chromedriver are not installed")
    with browsing.browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def expected_overview(raw, label, rule):
    """Return a row of the overview."""
    found = [recompute.figures(raw[name_of(student, label)], rule) for student in STUDENTS]
    counts = [len(raw[name_of(student, label)]) for student in STUDENTS]
    ranks = [
        recompute.rank(mean, [recompute.figures(raw[name_of(s, m)], rule)[0] for m in METHODS])
        for s, (mean, _) in zip(STUDENTS, found, strict=True)
    ]
    return [
        label,
        *(f"{spread(*each)} ({n})" for each, n in zip(found, counts, strict=True)),
        f"{np.mean([mean for mean, _ in found]):.2f}",
        "–" if label == "alone" else f"{np.mean(ranks):.1f}",
    ]


def expected_points(raw, student, method):
    """Return the tooltips of a method in the three cost charts."""
    mine = raw[name_of(student, method)]
    costs = [recompute.figures(mine, key)[0] for key in ("hours", "speed", "peak_memory_mib")]
    names = ("min of training", "images/s in training", "MiB at the peak")
    accuracy = recompute.figures(mine, "last")[0]
    return [
        f"{method}: {accuracy:.2f} %, {cost:.4g} {name}"
        for cost, name in zip((costs[0] * 60, *costs[1:]), names, strict=True)
    ]


def test_every_number_in_the_browser_is_one_from_the_raw_metrics(grid, written, window):
    """For each selectable rule, and without any request or console error."""
    raw, labels = recompute.rows(grid), (*METHODS, "alone")
    window.open(written)
    for choice, rule in (("own", "last"), ("best", "best"), ("last", "last")):
        window.run(f"document.querySelector('input[value={choice}]').click()")
        overview, *pairs, alone = window.run(SEEN)
        (matrix,) = overview["tables"]
        same(matrix["rows"], [expected_overview(raw, label, rule) for label in labels])
        for section, student in zip(pairs, STUDENTS, strict=True):
            assert section["title"] == f"resnet20 → {student}"
            assert section["facts"].endswith("teacher 93.00 %")
            results, costs = section["tables"]
            same(results["rows"], [expected_row(raw, student, label, rule) for label in labels])
            same(costs["rows"], [expected_cost(raw, student, label) for label in labels])
            ends = {m: recompute.figures(raw[name_of(student, m)], "last")[0] for m in labels}
            same(section["curves"], [f"{label} {end:.2f}" for label, end in ends.items()])
            points = [expected_points(raw, student, label) for label in labels]
            same(section["points"], [text for of_method in points for text in of_method])
        for label, count, runs, *scores in alone["tables"][0]["rows"]:
            mine = raw[name_of(label, "alone")]
            assert (count, runs) == ("3", ", ".join(f"{run[rule]:.2f}" for run in mine))
            assert scores == [spread(*recompute.figures(mine, each)) for each in ("last", "best")]
    assert window.requested() == [written.as_uri()]
    assert window.console() == []


def same(found, expected):
    assert sorted(found) == sorted(expected)


COLUMN = """
const head = [...document.querySelectorAll('table.results thead th')]
  .filter(h => h.textContent.startsWith(arguments[0]))[0];
head.querySelector('button').click();
const table = head.closest('table');
return [head.ariaSort, [...table.tBodies[0].rows].map(r => r.cells[0].dataset.v),
  [...table.tBodies[0].rows].map(r => [r.cells[head.cellIndex].dataset.v ??
    r.cells[head.cellIndex].dataset[document.documentElement.dataset.rule] ?? null][0])];
"""


def test_columns_sort_by_full_precision_both_ways_with_missing_last(written, window):
    window.open(written)
    for column in ("Rank", "n", "Last epoch", "Best", "Difference"):
        for direction in ("ascending", "descending"):
            order, labels, values = window.run(COLUMN, column)
            assert order == direction
            assert set(labels) == {*METHODS, "alone"}
            numbers = [float(value) for value in values if value is not None]
            assert numbers == sorted(numbers, reverse=direction == "descending")
            assert None not in values[: len(numbers)]
    assert window.run(COLUMN, "Method")[1] == ["alone", "at", "crd", "kd"]
    window.run("document.querySelector('input[value=best]').click()")
    assert [float(v) for v in window.run(COLUMN, "Rank")[2][:3]] == [1, 2, 3]


TYPE = """
const field = document.getElementById('filter');
field.value = arguments[0];
field.dispatchEvent(new Event('input', {bubbles: true}));
return document.getElementById('count').value;
"""


def test_the_filter_keeps_rows_with_every_word(written, window):
    window.open(written)
    assert window.run(TYPE, "") == "10 rows"
    assert window.run(TYPE, "resnet14 AT") == "1 of 10 rows"
    sections = window.run(SEEN)
    assert [s["title"] for s in sections] == ["digits protocol crd", "resnet20 → resnet14"]
    assert [row[0] for row in sections[1]["tables"][0]["rows"]] == ["at1 ce + 0.5 at"]
    hidden = "return document.querySelectorAll('section:not([hidden]) .line:not(.off)').length"
    assert window.run(hidden) == 1
    assert window.run(TYPE, "nothing like it") == "0 of 10 rows"
    assert window.run(SEEN) == []
    assert window.run(TYPE, "") == "10 rows"


def test_keys_alone_sort_and_filter(written, window):
    window.open(written)
    window.run("document.getElementById('filter').focus()")
    window.press("14 kd")
    assert window.run("return document.getElementById('count').value") == "1 of 10 rows"
    window.run("document.querySelector('table.results thead button').focus()")
    window.press("\ue007")
    sort = "return document.querySelector('table.results thead th').ariaSort"
    assert window.run(sort) == "ascending"
    window.press("\ue007")
    assert window.run(sort) == "descending"


@pytest.mark.parametrize("width", [500, 1400])
def test_the_page_itself_does_not_scroll_sideways(written, window, width):
    window.open(written)
    window.resize(width, 900)
    assert window.run("return document.documentElement.scrollWidth <= innerWidth") is True


def test_hostile_names_do_nothing_in_the_browser(tmp_path, window):
    write_run(tmp_path, "kd", dataset=ODD, departures={ODD: ODD}, name="a" + ODD.replace("/", "-"))
    write_run(tmp_path, "at", dataset=ODD, summary={"device": ODD})
    path = tmp_path / "report.html"
    path.write_text(page.render_page(report.build_report([tmp_path / "save"])), encoding="utf-8")
    window.open(path)
    assert window.run("return document.querySelectorAll('script, img').length") == 1
    assert window.requested() == [path.as_uri()]
    assert window.console() == []


def test_the_test_browser_reports_requests_and_errors(tmp_path, window):
    """Otherwise their absence would prove nothing."""
    path = tmp_path / "loud.html"
    path.write_text("<img src='http://127.0.0.1:9/a.png'><script>nothing.there()</script>")
    window.open(path)
    assert window.requested() == [path.as_uri(), "http://127.0.0.1:9/a.png"]
    assert any("nothing is not defined" in message for message in window.console())


DIM = """
const colour = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = text => {
  const [r, g, b] = colour(text).map(v => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll('body *')]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .filter(e => !e.closest('.radios, option, script, title'))
  .map(e => {
    const style = getComputedStyle(e);
    const own = light(e instanceof SVGElement ? style.fill : style.color);
    return [(Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05), e.tagName, e.className];
  })
  .filter(([contrast]) => contrast < 4.5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast_in_light_and_dark(written, window, scheme):
    """WCAG 2 requires a contrast of 4.5."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    window.command("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": media})
    window.open(written)
    assert window.run(DIM) == []

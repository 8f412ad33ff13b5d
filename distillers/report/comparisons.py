"""Runs that may be compared: grouped into rows of seeds, the rows into tables of one pair."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from distillers.errors import unknown
from distillers.report import labels, published
from distillers.report.estimates import Difference, Estimate, estimate, welch
from distillers.report.runs import ALONE, RULES, Run, UnreadableRun

Group = labels.Group


@dataclass(frozen=True)
class Beside:
    """A published number beside a measured one.

    Attributes:
        entry: the published number.
        difference: measured minus published by the same rule; None where the rule is unknown or
            the training differs.
        departures: how the training differs.
    """

    entry: published.Published
    difference: float | None
    departures: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One method with one set of weights and options, over its seeds.

    Attributes:
        label: the method, what is not as published, and in what it was trained otherwise than
            most: "kd (ce=1, kd=1) [epochs=20]"; unique in its table.
        runs: one a trial, in the trials' order.
        ranks: by rule, 1 is best; none for a network alone.
        differences: to the table's baseline, by rule.
        beside: published numbers.
    """

    label: str
    runs: tuple[Run, ...]
    ranks: dict[str, int]
    differences: dict[str, Difference]
    beside: tuple[Beside, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether there was no teacher."""
        return self.runs[0].teacher is None

    @property
    def formula(self) -> str:
        """The weighted sum that was minimised."""
        told = (
            f"{labels.value(given)} {name}"
            for name, given in self.runs[0].settings.items()
            if "." not in name
            or ":" in name  # an option is loss.option, a loss package.module:Loss
        )
        return " + ".join(told) or "1 ce"

    @cached_property
    def scores(self) -> dict[str, Estimate]:
        """Test accuracy in percent by rule."""
        rules = [rule for rule in RULES if all(rule in run.scores for run in self.runs)]
        return {rule: estimate([run.scores[rule] for run in self.runs]) for rule in rules}

    def nearest(self, rule: str) -> list[Beside]:
        """The published numbers, those that can be compared first, then those of the rule."""
        return sorted(self.beside, key=lambda b: (b.difference is None, b.entry.rule != rule))

    def cost(self, name: str) -> Estimate | None:
        """A number that a `Run` has, over the runs; None where it is not known of all."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else estimate(values)

    @cached_property
    def device_hours(self) -> Estimate:
        """Hours of the run times the devices that it took."""
        return estimate([run.hours * run.devices for run in self.runs])

    @property
    def devices(self) -> list[str]:
        """What trained it: more than one name where its runs had different devices."""
        many = (f"{run.devices} × " if run.devices > 1 else "" for run in self.runs)
        names = [before + run.device for before, run in zip(many, self.runs, strict=True)]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Comparison:
    """A table: what was tried for one pair of networks on one data set under one protocol.

    Attributes:
        dataset: its name.
        protocol: "crd" or "simkd".
        teacher: the network; None in a table of networks alone, whose rows are networks.
        student: the network; None likewise.
        setting: the flags of rows whose labels tell no other: most rows' of the data set and
            protocol, with the table's own rate.
        rule: what is reported: "last", "best" or "held_out".
        baseline: label of the row that the others are compared with, or None.
        rows: the best first, by the rule.
    """

    dataset: str
    protocol: str
    teacher: str | None
    student: str | None
    setting: dict[str, Any]
    rule: str
    baseline: str | None
    rows: tuple[Row, ...]

    @property
    def pair(self) -> str:
        """The two networks."""
        return f"{self.teacher} → {self.student}" if self.teacher else "no teacher"

    @cached_property
    def by_label(self) -> dict[str, Row]:
        """Its rows by their labels."""
        return {row.label: row for row in self.rows}

    @property
    def rules(self) -> list[str]:
        """The rules by which every row has a score."""
        return [rule for rule in RULES if all(rule in row.scores for row in self.rows)]

    @property
    def teacher_accuracy(self) -> float | None:
        """In percent, where it was scored."""
        known = (run.teacher_accuracy for row in self.rows for run in row.runs)
        return next((accuracy for accuracy in known if accuracy is not None), None)


def unite(runs: Iterable[Run]) -> tuple[list[Group], list[UnreadableRun]]:
    """Runs that differ in nothing but the trial, together; and those that are there twice.

    A run from before there was a digest of the data is taken to be of those that all others of its
    data set are of, where these are the same.

    Returns:
        the groups in the order of their first run, each in the order of the trials; and every run
        whose flags and trial an earlier one has, which would count one seed twice.
    """
    groups: dict[tuple[str, str | None], dict[int, Run]] = {}
    copies = []
    for run in _with_data(list(runs)):
        group = groups.setdefault((run.same, run.data), {})
        first = group.setdefault(run.trial, run)
        if first is not run:
            reason = f"trial {run.trial} of the same flags is counted already: {first.folder}"
            copies.append(UnreadableRun(run.folder, reason, "copy"))
    return [tuple(group[trial] for trial in sorted(group)) for group in groups.values()], copies


def _with_data(runs: list[Run]) -> list[Run]:
    known: dict[str, set[str]] = {}
    for run in runs:
        known.setdefault(run.dataset, set()).update({run.data} if run.data else ())
    only = {name: next(iter(found)) for name, found in known.items() if len(found) == 1}
    return [run if run.data else replace(run, data=only.get(run.dataset)) for run in runs]


def compare(groups: Sequence[Group], baseline: str | None = None) -> list[Comparison]:
    """Tables of what may be compared.

    Args:
        groups: as `unite` gives them.
        baseline: label of the row to compare with. Left out: that of KD as published, else that of
            the student alone.

    Raises:
        InputError: when no table has such a row.
    """
    pairs: dict[tuple, list[Group]] = {}
    alone: dict[tuple, list[Group]] = {}
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        run = group[0]
        student = run.student if run.teacher else None
        pairs.setdefault((run.dataset, run.protocol, run.teacher, student), []).append(group)
        alike.setdefault((run.dataset, run.protocol), []).append(group)
        if run.teacher is None:
            alone.setdefault(_trained_as(run), []).append(group)
    usual = {key: labels.most_common(each, labels.RATE) for key, each in alike.items()}
    beside = published.by_run(published.read())
    tables = []
    for (dataset, protocol, teacher, student), each in pairs.items():
        if teacher is not None:
            ways = dict.fromkeys(_trained_as(group[0]) for group in each)
            each += [group for way in ways for group in alone.get(way, [])]
        setting = labels.setting_of(each, usual[dataset, protocol])
        named = labels.label(each, setting)
        pair = dataset, protocol, teacher, student
        tables.append(_table(pair, named, setting, baseline, beside))
    known = {row.label for table in tables if table.teacher for row in table.rows}
    if baseline is not None and baseline not in known:
        raise unknown("row", baseline, known)
    return sorted(tables, key=lambda t: (t.teacher is None, t.dataset, t.protocol, t.pair))


def _trained_as(run: Run) -> tuple:
    shared = {k: v for k, v in run.setting.items() if k not in labels.OF_TEACHING}
    return run.dataset, run.protocol, run.student, run.data, repr(shared)


def _table(
    pair: tuple,
    named: dict[str, Group],
    setting: dict[str, Any],
    baseline: str | None,
    beside: dict,
) -> Comparison:
    dataset, protocol, teacher, student = pair
    rows = [Row(label, group, {}, {}) for label, group in named.items()]
    rule = "last" if protocol == "crd" else "best"
    if all("held_out" in row.scores for row in rows):
        rule = "held_out"
    rows.sort(key=lambda row: -row.scores[rule].mean)
    most = labels.most_common([row.runs for row in rows])
    reference = _reference(rows, most, baseline) if teacher else None
    ranked = [row.scores for row in rows if not row.alone]
    means = {rule: sorted(each[rule].even for each in ranked if rule in each) for rule in RULES}
    return Comparison(
        dataset=dataset,
        protocol=protocol,
        teacher=teacher,
        student=student,
        setting=setting,
        rule=rule,
        baseline=reference.label if reference else None,
        rows=tuple(_compared(row, means, reference, beside) for row in rows),
    )


def _reference(rows: list[Row], setting: dict[str, Any], baseline: str | None) -> Row | None:
    """The row that the others are compared with, of the usual setting where there is a choice."""
    if baseline is not None:
        return next((row for row in rows if row.label == baseline), None)
    plain = [row for row in rows if row.runs[0].method == "kd" and not row.runs[0].departures]
    plain = plain or [row for row in rows if row.alone]
    return min(plain, key=lambda row: (row.runs[0].setting != setting, row.label), default=None)


def _compared(row: Row, means: dict[str, list[float]], reference: Row | None, beside: dict) -> Row:
    ranks, differences = {}, {}
    for rule, score in row.scores.items():
        if not row.alone:
            ranks[rule] = 1 + len(means[rule]) - bisect_right(means[rule], score.even)
        if reference is not None and row is not reference and rule in reference.scores:
            differences[rule] = welch(score, reference.scores[rule])
    run = row.runs[0]
    name = ALONE if row.alone else labels.method_of(run)
    key = (run.dataset, run.protocol, run.teacher or "", run.student, name)
    near = tuple(_beside(entry, row) for entry in beside.get(key, ()))
    return replace(row, ranks=ranks, differences=differences, beside=near)


def _beside(entry: published.Published, row: Row) -> Beside:
    departures = tuple(published.departures(entry, row.runs[0].setting))
    score = row.scores.get(entry.rule)
    comparable = score is not None and not departures
    return Beside(entry, score.mean - entry.mean if score and comparable else None, departures)

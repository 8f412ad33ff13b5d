"""Runs that may be compared: grouped into rows of seeds, the rows into tables of one pair."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from distillers.analysis import published
from distillers.analysis.estimates import Difference, Estimate, estimate, welch
from distillers.analysis.fields import shown
from distillers.analysis.runs import ALONE, RULES, Damaged, Run
from distillers.errors import unknown


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
        label: the method, and what is not as published: "kd (ce=1, kd=1)"; unique in its table.
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
        weights = {name: w for name, w in self.runs[0].settings.items() if "." not in name}
        return " + ".join(f"{value(w)} {name}" for name, w in weights.items()) or "1 ce"

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
    """A table: the methods of one pair of networks, all else equal.

    Attributes:
        dataset: its name.
        protocol: "crd" or "simkd".
        teacher: the network; None in a table of networks alone, whose rows are networks.
        teacher_file: SHA-256 of its checkpoint; None likewise.
        student: the network; None likewise.
        setting: the flags that all runs share.
        note: what tells it from other tables of the same pair; often "".
        rule: what the protocol reports: "last", "best" or "held_out".
        baseline: label of the row that the others are compared with, or None.
        rows: the best first, by the rule.
    """

    dataset: str
    protocol: str
    teacher: str | None
    teacher_file: str | None
    student: str | None
    setting: dict[str, Any]
    note: str
    rule: str
    baseline: str | None
    rows: tuple[Row, ...]

    @property
    def pair(self) -> str:
        """The two networks."""
        return f"{self.teacher} → {self.student}" if self.teacher else "no teacher"

    @property
    def title(self) -> str:
        """Its pair, with what tells it from other tables of the pair."""
        return f"{self.pair} ({self.note})" if self.note else self.pair

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


def unite(runs: Iterable[Run]) -> tuple[list[tuple[Run, ...]], list[Damaged]]:
    """Runs that differ in nothing but the trial, together; and those that are there twice.

    Returns:
        the groups in the order of their first run, each in the order of the trials; and every run
        whose flags and trial an earlier one has, which would count one seed twice.
    """
    groups: dict[str, dict[int, Run]] = {}
    copies = []
    for run in runs:
        group = groups.setdefault(run.same, {})
        first = group.setdefault(run.trial, run)
        if first is not run:
            reason = f"trial {run.trial} of the same flags is counted already: {first.folder}"
            copies.append(Damaged(run.folder, reason, "copy"))
    return [tuple(group[trial] for trial in sorted(group)) for group in groups.values()], copies


def compare(groups: Sequence[tuple[Run, ...]], baseline: str | None = None) -> list[Comparison]:
    """Tables of what may be compared.

    Args:
        groups: as `unite` gives them.
        baseline: label of the row to compare with. Left out: "kd", else "alone".

    Raises:
        InputError: when no table has such a row.
    """
    tables: dict[tuple, list[tuple[Run, ...]]] = {}
    alone: dict[tuple, list[tuple[Run, ...]]] = {}
    for group in groups:
        tables.setdefault(_table_of(group[0]), []).append(group)
        if group[0].teacher is None:
            alone.setdefault(_like(group[0]), []).append(group)
    beside = published.by_run(published.read())
    made = []
    for each in tables.values():
        if each[0][0].teacher is not None:
            each += alone.get(_like(each[0][0]), [])
        made.append(_table(each, baseline, beside))
    labels = {row.label for table in made if table.teacher for row in table.rows}
    if baseline is not None and baseline not in labels:
        raise unknown("row", baseline, labels)
    return sorted(_noted(made), key=_place)


def value(content: object) -> str:
    """A flag's value as one would type it."""
    if isinstance(content, float):
        return f"{content:g}"
    if isinstance(content, list):
        return ",".join(map(value, content))
    return shown(content)


def _place(table: Comparison) -> tuple:
    return table.teacher is None, table.dataset, table.protocol, table.pair, table.note


def _table_of(run: Run) -> tuple:
    if run.teacher is None:  # networks have rates of their own
        rest = {name: v for name, v in run.setting.items() if name != "learning_rate"}
        return run.dataset, run.protocol, None, None, repr(rest)
    return run.dataset, run.protocol, run.teacher, run.teacher_file, run.student, repr(run.setting)


def _like(run: Run) -> tuple:
    return run.dataset, run.protocol, run.student, repr(run.setting)


def _table(groups: list[tuple[Run, ...]], baseline: str | None, beside: dict) -> Comparison:
    first = groups[0][0]
    rule = "last" if first.protocol == "crd" else "best"
    if first.setting.get("val_fraction"):
        rule = "held_out"
    rows = [Row(label, group, {}, {}) for label, group in _labelled(groups)]
    rule = rule if all(rule in row.scores for row in rows) else "last"
    rows.sort(key=lambda row: -row.scores[rule].mean)
    found = {row.label: row for row in rows} if first.teacher else {}
    wanted = [baseline] if baseline else ["kd", ALONE]
    reference = next((found[label] for label in wanted if label in found), None)
    return Comparison(
        dataset=first.dataset,
        protocol=first.protocol,
        teacher=first.teacher,
        teacher_file=first.teacher_file,
        student=first.student if first.teacher else None,
        setting=first.setting,
        note="",
        rule=rule,
        baseline=reference.label if reference else None,
        rows=tuple(_compared(row, rows, reference, beside) for row in rows),
    )


def _compared(row: Row, rows: list[Row], reference: Row | None, beside: dict) -> Row:
    methods = [other for other in rows if not other.alone]
    ranks, differences = {}, {}
    for rule, score in row.scores.items():
        if not row.alone:
            better = [m for m in methods if rule in m.scores and m.scores[rule].mean > score.mean]
            ranks[rule] = 1 + len(better)
        if reference is not None and row is not reference and rule in reference.scores:
            differences[rule] = welch(score, reference.scores[rule])
    run = row.runs[0]
    name = ALONE if row.alone else row.label
    key = (run.dataset, run.protocol, run.teacher or "", run.student, name)
    near = tuple(_beside(entry, row) for entry in beside.get(key, ()))
    return replace(row, ranks=ranks, differences=differences, beside=near)


def _beside(entry: published.Published, row: Row) -> Beside:
    departures = tuple(published.departures(entry, row.runs[0].setting))
    score = row.scores.get(entry.rule)
    comparable = score is not None and not departures
    return Beside(entry, score.mean - entry.mean if score and comparable else None, departures)


def _labelled(groups: list[tuple[Run, ...]]) -> list[tuple[str, tuple[Run, ...]]]:
    """A name for each group that no other group of the table has."""
    of_networks = groups[0][0].teacher is None
    labels: dict[str, tuple[Run, ...]] = {}
    for group in groups:
        run = group[0]
        label = run.student if of_networks else run.method
        if run.departures:
            told = (f"{name}={value(v)}" for name, v in sorted(run.departures.items()))
            label += f" ({', '.join(told)})"
        if label in labels:
            label += f" [learning_rate={value(run.setting['learning_rate'])}]"
        number, plain = 2, label
        while label in labels:
            label, number = f"{plain} ({number})", number + 1
        labels[label] = group
    return list(labels.items())


def _noted(tables: list[Comparison]) -> list[Comparison]:
    """The tables, with what tells those of one pair apart."""
    same: dict[tuple, list[Comparison]] = {}
    for table in tables:
        pair = (table.dataset, table.protocol, table.teacher, table.student)
        same.setdefault(pair, []).append(table)
    return [replace(table, note=_note(table, like)) for like in same.values() for table in like]


def _note(table: Comparison, like: list[Comparison]) -> str:
    names = {name for other in like for name in other.setting}
    if table.teacher is None:
        names -= {"learning_rate"}
    notes = [
        f"{name}={value(table.setting.get(name))}"
        for name in sorted(names)
        if any(other.setting.get(name) != table.setting.get(name) for other in like)
    ]
    if any(other.teacher_file != table.teacher_file for other in like):
        notes.append(f"teacher's file {str(table.teacher_file)[:8]}")
    return ", ".join(notes)

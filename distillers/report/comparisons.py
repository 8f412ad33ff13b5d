"""Comparable runs: seeds grouped into rows, rows into one table for each pair of networks."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any

from distillers.errors import unknown
from distillers.report import labels, published
from distillers.report.estimates import Difference, SampleStats, welch
from distillers.report.labels import Group
from distillers.report.records import ALONE, RULES, RunRecord, UnreadableRun, to_frame

PublishedTable = Mapping[tuple[str, ...], Sequence[published.PublishedResult]]


@dataclass(frozen=True)
class PublishedDelta:
    """A published result and its distance from a measured one.

    Attributes:
        entry: the published result.
        difference: measured minus published accuracy by the same rule; None if the rule is
            unknown or the training differs.
        departures: differences of the training, such as "20 epochs, not 240".
    """

    entry: published.PublishedResult
    difference: float | None
    departures: tuple[str, ...]


@dataclass(frozen=True)
class MethodRow:
    """One method with one set of weights and options, over its seeds.

    Attributes:
        label: unique in its table: the method, its unpublished weights and options, and flags
            that differ from most rows, as in "kd (ce=1, kd=1) [epochs=20]".
        runs: one for each trial, in order.
        ranks: rank by rule, 1 is best; empty for a network trained alone.
        differences: difference from the table's baseline, by rule.
        published: published results for the same method and networks.
    """

    label: str
    runs: tuple[RunRecord, ...]
    ranks: dict[str, int]
    differences: dict[str, Difference]
    published: tuple[PublishedDelta, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether the network was trained without a teacher."""
        return self.runs[0].teacher is None

    @property
    def formula(self) -> str:
        """The weighted sum of losses, as in "1 ce + 0.5 kd"."""
        terms = (
            f"{labels.format_value(weight)} {name}"
            for name, weight in self.runs[0].loss_settings.items()
            if "." not in name
            or ":" in name  # options are loss.option, losses of users package.module:Loss
        )
        return " + ".join(terms) or "1 ce"

    @cached_property
    def scores(self) -> dict[str, SampleStats]:
        """Test accuracy in percent, by each rule that all runs have."""
        rules = [rule for rule in RULES if all(rule in run.scores for run in self.runs)]
        return {rule: SampleStats([run.scores[rule] for run in self.runs]) for rule in rules}

    @cached_property
    def mean_curve(self) -> list[float]:
        """Mean test accuracy in percent after each epoch."""
        curves = zip(*(run.curve for run in self.runs), strict=True)
        return [sum(epoch) / len(epoch) for epoch in curves]

    def deltas(self, is_baseline: bool) -> dict[str, float]:
        """Return the differences to the baseline by rule, zero for the baseline itself."""
        if is_baseline:
            return dict.fromkeys(self.scores, 0.0)
        return {rule: difference.value for rule, difference in self.differences.items()}

    def sorted_published(self, rule: str) -> list[PublishedDelta]:
        """Return the published results, comparable ones first, then those of a rule."""
        return sorted(self.published, key=lambda p: (p.difference is None, p.entry.rule != rule))

    def cost(self, name: str) -> SampleStats | None:
        """Return statistics of a numeric attribute of the runs; None if a run lacks it."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else SampleStats(values)

    @cached_property
    def device_hours(self) -> SampleStats:
        """Wall-clock hours times the number of devices."""
        return SampleStats([run.hours * run.devices for run in self.runs])

    @property
    def devices(self) -> list[str]:
        """The distinct training devices of the runs, such as "4 × H100"."""
        names = (f"{f'{r.devices} × ' if r.devices > 1 else ''}{r.device}" for r in self.runs)
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class PairTable:
    """All methods for one pair of networks on one data set under one protocol.

    Attributes:
        dataset: name of the data set.
        protocol: "crd" or "simkd".
        teacher: the teacher network; None in a table of networks trained alone.
        student: the student network, or None as above.
        flags: training flags of the rows whose labels name no others.
        rule: the rule that is reported: "last", "best" or "held_out".
        baseline: label of the row that the others are compared with, or None.
        rows: best first, by the rule.
    """

    dataset: str
    protocol: str
    teacher: str | None
    student: str | None
    flags: dict[str, Any]
    rule: str
    baseline: str | None
    rows: tuple[MethodRow, ...]

    @property
    def pair(self) -> str:
        """The two networks, as in "resnet56 → resnet20"."""
        return f"{self.teacher} → {self.student}" if self.teacher else "no teacher"

    @cached_property
    def by_label(self) -> dict[str, MethodRow]:
        """The rows by label."""
        return {row.label: row for row in self.rows}

    @cached_property
    def rules(self) -> list[str]:
        """The rules by which every row has a score."""
        return [rule for rule in RULES if all(rule in row.scores for row in self.rows)]

    def by_rule(self, values: Mapping[str, float]) -> dict[str, float | None]:
        """Return values by each of the table's rules, None if missing."""
        return {rule: values.get(rule) for rule in self.rules}

    @property
    def teacher_accuracy(self) -> float | None:
        """Accuracy of the teacher in percent; None if it was not evaluated."""
        known = (run.teacher_accuracy for row in self.rows for run in row.runs)
        return next((accuracy for accuracy in known if accuracy is not None), None)


def group_seeds(runs: Sequence[RunRecord]) -> tuple[list[Group], list[UnreadableRun]]:
    """Group runs that differ in their seed only.

    Runs written before the digest of the data was recorded count as runs on the only data that
    the other runs on their data set used, if there is only one.

    Returns:
        the groups in order of their first run, each sorted by trial; and repetitions of a run,
        which would count one seed twice.
    """
    frame = to_frame(runs)
    digests = frame.dropna(subset=["data"]).drop_duplicates(["dataset", "data"])
    only = digests.drop_duplicates("dataset", keep=False).set_index("dataset")["data"].to_dict()
    runs = [run if run.data else replace(run, data=only.get(run.dataset)) for run in runs]
    frame["data"] = [run.data or "" for run in runs]
    keys = ["group_key", "data"]
    first = frame.groupby([*keys, "trial"])["folder"].transform("first")
    is_copy = frame.duplicated([*keys, "trial"])
    copies = []
    for run, kept in zip(compress(runs, is_copy), first[is_copy], strict=True):
        reason = f"trial {run.trial} of the same flags is counted already: {kept}"
        copies.append(UnreadableRun(run.folder, reason, "copy"))
    members = frame[~is_copy].sort_values("trial").groupby(keys).groups.values()
    return [tuple(runs[i] for i in indices) for indices in sorted(members, key=min)], copies


def build_tables(groups: Sequence[Group], baseline: str | None = None) -> list[PairTable]:
    """Build one table for each pair of networks, data set and protocol.

    Args:
        groups: as `group_seeds` returns them.
        baseline: label of the row to compare with. Default: KD as published, or else the student
            trained alone.

    Raises:
        InputError: if no table has such a row.
    """
    by_pair: dict[tuple[str, str, str | None, str | None], list[Group]] = defaultdict(list)
    alone: dict[Hashable, list[Group]] = defaultdict(list)
    by_protocol: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        run = group[0]
        student = run.student if run.teacher else None
        by_pair[run.dataset, run.protocol, run.teacher, student].append(group)
        by_protocol[run.dataset, run.protocol].append(group)
        if run.teacher is None:
            alone[_training_key(run)].append(group)
    common = {key: labels.most_common_flags(each, labels.RATE) for key, each in by_protocol.items()}
    results = published.by_run(published.read())
    tables = []
    for pair, members in by_pair.items():
        if pair[2] is not None:
            trainings = dict.fromkeys(_training_key(group[0]) for group in members)
            members = [*members, *(group for key in trainings for group in alone.get(key, []))]
        flags = labels.with_common_rate(members, common[pair[:2]])
        tables.append(_build_table(pair, members, flags, baseline, results))
    known = {row.label for table in tables if table.teacher for row in table.rows}
    if baseline is not None and baseline not in known:
        raise unknown("row", baseline, known)
    return sorted(tables, key=lambda t: (t.teacher is None, t.dataset, t.protocol, t.pair))


def _training_key(run: RunRecord) -> Hashable:
    """Return what a student has in common with the same network trained alone."""
    shared = {k: v for k, v in run.train_flags.items() if k not in labels.TEACHER_FLAGS}
    return run.dataset, run.protocol, run.student, run.data, repr(shared)


def _build_table(
    pair: tuple[str, str, str | None, str | None],
    groups: Sequence[Group],
    flags: dict[str, Any],
    baseline: str | None,
    results: PublishedTable,
) -> PairTable:
    dataset, protocol, teacher, student = pair
    labelled = labels.label_groups(groups, flags)
    rows = [MethodRow(label, group, {}, {}) for label, group in labelled.items()]
    rule = "last" if protocol == "crd" else "best"
    if all("held_out" in row.scores for row in rows):
        rule = "held_out"
    rows.sort(key=lambda row: -row.scores[rule].mean)
    common = labels.most_common_flags([row.runs for row in rows])
    reference = _baseline_row(rows, common, baseline) if teacher else None
    ranked = [row.scores for row in rows if not row.is_alone]
    means = {r: sorted(each[r].rounded_mean for each in ranked if r in each) for r in RULES}
    return PairTable(
        dataset=dataset,
        protocol=protocol,
        teacher=teacher,
        student=student,
        flags=flags,
        rule=rule,
        baseline=reference.label if reference else None,
        rows=tuple(_compare(row, means, reference, results) for row in rows),
    )


def _baseline_row(
    rows: Sequence[MethodRow], flags: dict[str, Any], baseline: str | None
) -> MethodRow | None:
    """Return the row that the others are compared with, preferably one with the common flags."""
    if baseline is not None:
        return next((row for row in rows if row.label == baseline), None)
    plain = [row for row in rows if row.runs[0].method == "kd" and not row.runs[0].departures]
    plain = plain or [row for row in rows if row.is_alone]
    return min(plain, key=lambda row: (row.runs[0].train_flags != flags, row.label), default=None)


def _compare(
    row: MethodRow,
    means: Mapping[str, Sequence[float]],
    reference: MethodRow | None,
    results: PublishedTable,
) -> MethodRow:
    ranks, differences = {}, {}
    for rule, score in row.scores.items():
        if not row.is_alone:
            ranks[rule] = 1 + len(means[rule]) - bisect_right(means[rule], score.rounded_mean)
        if reference is not None and row is not reference and rule in reference.scores:
            differences[rule] = welch(score, reference.scores[rule])
    run = row.runs[0]
    method = ALONE if row.is_alone else labels.method_label(run)
    key = (run.dataset, run.protocol, run.teacher or "", run.student, method)
    deltas = tuple(_published_delta(entry, row) for entry in results.get(key, ()))
    return replace(row, ranks=ranks, differences=differences, published=deltas)


def _published_delta(entry: published.PublishedResult, row: MethodRow) -> PublishedDelta:
    departures = tuple(published.departures(entry, row.runs[0].train_flags))
    score = row.scores.get(entry.rule)
    difference = score.mean - entry.mean if score and not departures else None
    return PublishedDelta(entry, difference, departures)

"""Row labels: the method, and what sets a row apart from the others of its table."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import mode
from typing import Any

from distillers.config.flags import Fact, flags_with
from distillers.config.student import StudentConfig
from distillers.report.records import RunRecord, printable

Group = tuple[RunRecord, ...]  # runs that differ in their seed only
RATE = "learning_rate"  # published rates depend on the network
TEACHER_FLAGS = flags_with(StudentConfig, Fact.NEEDS_TEACHER)


def most_common_flags(groups: Iterable[Group], without: str = "") -> dict[str, Any]:
    """Return the training flags but `without` that most groups share, the first if tied."""
    candidates = [
        {name: flag for name, flag in group[0].train_flags.items() if name != without}
        for group in groups
    ]
    texts = [repr(flags) for flags in candidates]
    return candidates[texts.index(mode(texts))]


def with_common_rate(groups: Sequence[Group], flags: dict[str, Any]) -> dict[str, Any]:
    """Add to training flags the learning rate that most groups of a table share."""
    return {**flags, RATE: mode(group[0].train_flags[RATE] for group in groups)}


def method_label(run: RunRecord) -> str:
    """Return the method, followed by unpublished weights and options in round brackets."""
    departures = [f"{name}={format_value(v)}" for name, v in sorted(run.departures.items())]
    return run.method + (f" ({', '.join(departures)})" if departures else "")


def label_groups(groups: Sequence[Group], flags: dict[str, Any]) -> dict[str, Group]:
    """Return the groups of one table by unique labels."""
    no_teacher = groups[0][0].teacher is None
    teacher_file = _most_common(group[0].teacher_file for group in groups)
    data = _most_common(group[0].data for group in groups)
    labelled: dict[str, Group] = {}
    for group in groups:
        run = group[0]
        rate = f"{RATE}={format_value(run.train_flags[RATE])}"
        details = _differing_flags(run, flags)
        if run.train_flags[RATE] != flags[RATE] and not no_teacher:
            details.append(rate)
        if run.teacher_file and run.teacher_file != teacher_file:
            details.append(f"teacher={run.teacher_file[:8]}")
        if run.data != data:
            details.append(f"data={(run.data or 'unknown')[:8]}")
        label = run.student if no_teacher else method_label(run)
        label += f" [{', '.join(details)}]" if details else ""
        if label in labelled and no_teacher:
            label += f" [{rate}]"
        labelled[_make_unique(label, labelled)] = group
    return labelled


def format_value(value: object) -> str:
    """Format a flag's value as on the command line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ",".join(map(format_value, value))
    return printable(value)


def _differing_flags(run: RunRecord, flags: dict[str, Any]) -> list[str]:
    """Return the flags, except the learning rate, that differ from those given."""
    ignored = {RATE, *(TEACHER_FLAGS if run.teacher is None else ())}
    names = sorted((flags.keys() | run.train_flags.keys()) - ignored)
    differing = [name for name in names if run.train_flags.get(name) != flags.get(name)]
    return [f"{name}={format_value(run.train_flags.get(name))}" for name in differing]


def _make_unique(label: str, taken: Iterable[str]) -> str:
    number, unique = 2, label
    while unique in taken:
        unique, number = f"{label} ({number})", number + 1
    return unique


def _most_common(values: Iterable[str | None]) -> str | None:
    """Return the most frequent non-empty value, or None."""
    return next((value for value, _ in Counter(filter(None, values)).most_common(1)), None)

"""Names for rows: what was run, and how it differs from the rest."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from distillers.analysis.fields import shown
from distillers.analysis.runs import Run

Group = tuple[Run, ...]  # runs that differ in nothing but their trial
RATE = "learning_rate"  # networks have published rates of their own


def most_common(groups: Iterable[Group], apart: str = "") -> dict[str, Any]:
    """The setting that most groups have, a flag left out; of equally many the first."""
    settings = [
        {name: given for name, given in group[0].setting.items() if name != apart}
        for group in groups
    ]
    return settings[_commonest([repr(setting) for setting in settings])]


def method_of(run: Run) -> str:
    """The method, and in brackets which weights and options are not as published."""
    told = [f"{name}={value(each)}" for name, each in sorted(run.departures.items())]
    return run.method + (f" ({', '.join(told)})" if told else "")


def label(groups: list[Group], usual: dict[str, Any]) -> dict[str, Group]:
    """A name for each group of a table that no other group of it has.

    Args:
        groups: those of a table.
        usual: the setting that needs no words, without the learning rate: the usual one of that is
            the table's own.
    """
    of_networks = groups[0][0].teacher is None
    rates = [group[0].setting[RATE] for group in groups]
    rate = rates[_commonest(rates)]
    files = [file for group in groups if (file := group[0].teacher_file)]
    file = files[_commonest(files)] if files else None
    named: dict[str, Group] = {}
    for group in groups:
        run = group[0]
        names = sorted((usual.keys() | run.setting.keys()) - {RATE})
        apart = [name for name in names if run.setting.get(name) != usual.get(name)]
        told = [f"{name}={value(run.setting.get(name))}" for name in apart]
        if run.setting[RATE] != rate and not of_networks:
            told.append(f"{RATE}={value(run.setting[RATE])}")
        if run.teacher_file and run.teacher_file != file:
            told.append(f"teacher={run.teacher_file[:8]}")
        plain = run.student if of_networks else method_of(run)
        full = f"{plain} [{', '.join(told)}]" if told else plain
        if full in named and of_networks:
            full = f"{full} [{RATE}={value(run.setting[RATE])}]"
        number, first = 2, full
        while full in named:
            full, number = f"{first} ({number})", number + 1
        named[full] = group
    return named


def _commonest(values: Sequence[Hashable]) -> int:
    """The place of the first of the values that occur most often."""
    ((value, _),) = Counter(values).most_common(1)
    return values.index(value)


def value(content: object) -> str:
    """A flag's value as one would type it."""
    if isinstance(content, float):
        return f"{content:g}"
    if isinstance(content, list):
        return ",".join(map(value, content))
    return shown(content)

"""Names for rows: what was run, and how it differs from the rest."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from distillers.report.fields import shown
from distillers.report.runs import Run

Group = tuple[Run, ...]  # runs that differ in nothing but their trial
RATE = "learning_rate"  # networks have published rates of their own
OF_TEACHING = ("teacher_cache", "gather")  # flags that say nothing of a network alone


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


def setting_of(groups: list[Group], usual: dict[str, Any]) -> dict[str, Any]:
    """The setting of a table that needs no words: the usual one, with its commonest rate.

    Args:
        groups: those of the table.
        usual: of the data set and protocol, without the rate.
    """
    rates = [group[0].setting[RATE] for group in groups]
    return {**usual, RATE: rates[_commonest(rates)]}


def label(groups: list[Group], setting: dict[str, Any]) -> dict[str, Group]:
    """A name for each group of a table that no other group of it has.

    Args:
        groups: those of a table.
        setting: what `setting_of` gave for them.
    """
    of_networks = groups[0][0].teacher is None
    files = [file for group in groups if (file := group[0].teacher_file)]
    file = files[_commonest(files)] if files else None
    contents = [content for group in groups if (content := group[0].data)]
    content = contents[_commonest(contents)] if contents else None
    named: dict[str, Group] = {}
    for group in groups:
        run = group[0]
        told = _departing(run, setting)
        if run.setting[RATE] != setting[RATE] and not of_networks:
            told.append(f"{RATE}={value(run.setting[RATE])}")
        if run.teacher_file and run.teacher_file != file:
            told.append(f"teacher={run.teacher_file[:8]}")
        if run.data != content:
            told.append(f"data={(run.data or 'unknown')[:8]}")
        plain = run.student if of_networks else method_of(run)
        full = f"{plain} [{', '.join(told)}]" if told else plain
        if full in named and of_networks:
            full = f"{full} [{RATE}={value(run.setting[RATE])}]"
        number, first = 2, full
        while full in named:
            full, number = f"{first} ({number})", number + 1
        named[full] = group
    return named


def _departing(run: Run, setting: dict[str, Any]) -> list[str]:
    """The flags in which a run differs from a table's setting, but the rate."""
    silent = {RATE, *(OF_TEACHING if run.teacher is None else ())}
    names = sorted((setting.keys() | run.setting.keys()) - silent)
    apart = [name for name in names if run.setting.get(name) != setting.get(name)]
    return [f"{name}={value(run.setting.get(name))}" for name in apart]


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

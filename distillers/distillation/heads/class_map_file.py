"""Read a file that maps the classes of a teacher to those of a data set."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillers.config.yaml_text import read_yaml
from distillers.data.datasets.listing import first_few
from distillers.errors import InputError, shorten, unknown

IMAGENET = 1000  # classes
UNMAPPED = -1


def read_class_map(
    path: Path, teacher_classes: Sequence[Sequence[str]], class_names: Sequence[str]
) -> list[int]:
    """Return the class of the data set that each class of a teacher is mapped to, -1 for none.

    The file is YAML or JSON, a mapping `teacher class: our class` or `our class: [teacher class,
    ...]`, or a `.csv` file of two columns, teacher class and our class. A teacher's class is its
    number, from 0, or one of its names in `teacher_classes`.

    Raises:
        InputError: if a class does not exist or is mapped twice, or none is mapped.
    """
    by_name = _by_name(teacher_classes)
    found = [UNMAPPED] * len(teacher_classes)
    for theirs, ours in _pairs(path):
        if ours not in class_names:
            raise InputError(
                f"--class_map {path}: {unknown('class of the images', ours, class_names)}"
            )
        row = by_name.get(theirs.lower())
        if row is None:
            raise InputError(f"--class_map {path}: {_unknown_class(theirs, by_name)}")
        to = list(class_names).index(ours)
        if found[row] not in (UNMAPPED, to):
            raise InputError(
                f"--class_map {path}: the teacher's class {theirs} is mapped to {ours} and to "
                f"{class_names[found[row]]}."
            )
        found[row] = to
    if not any(to != UNMAPPED for to in found):
        raise InputError(f"--class_map {path} maps no class.")
    return found


def describe(assignment: Sequence[int], class_names: Sequence[str]) -> str:
    """Return how many classes are mapped, and a warning of those that have none."""
    mapped = [to for to in assignment if to != UNMAPPED]
    line = f"{len(mapped)} of the teacher's {len(assignment)} classes are mapped to "
    line += f"{len(set(mapped))} of {len(class_names)}"
    without = [name for number, name in enumerate(class_names) if number not in mapped]
    if without:
        line += f"; WARNING: the teacher has no class for {first_few(without)}: their "
        line += "probability is 1e-6"
    return line


def class_names_of(num_classes: int, names: Sequence[str] | None) -> list[list[str]]:
    """Return for each class of a network the names that it goes by.

    They are those of its card, else for 1,000 classes ImageNet's: WordNet's identifier, timm's
    description, and each synonym in it.
    """
    if names and len(names) == num_classes:
        return [[name] for name in names]
    if num_classes != IMAGENET:
        return [[] for _ in range(num_classes)]
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    found = []
    for number, identifier in enumerate(info.label_names()):
        words = info.index_to_description(number)
        found.append([identifier, words, *(word.strip() for word in words.split(","))])
    return found


def _by_name(teacher_classes: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the row of each name and number; names of several classes are left out."""
    found: dict[str, int] = {}
    several: set[str] = set()
    for row, names in enumerate(teacher_classes):
        for name in {name.lower() for name in names}:
            several |= {name} if name in found else set()
            found[name] = row
    numbers = {str(row): row for row in range(len(teacher_classes))}
    named = {name: row for name, row in found.items() if name not in several}
    return {**numbers, **named}


def _unknown_class(name: str, by_name: Mapping[str, int]) -> InputError:
    names = [each for each in by_name if not each.isdigit()]
    if names:
        return unknown("class of the teacher", name, names)
    return InputError(
        f"no class of the teacher {name!r}: the names of its {len(by_name)} classes are unknown; "
        f"give their numbers, 0 to {len(by_name) - 1}."
    )


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return the teacher's class and ours of each entry of a file."""
    if path.suffix.lower() == ".csv":
        try:
            rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"--class_map {path} cannot be read: {error}") from error
        rows = [row for row in rows if row]
        wrong = next((row for row in rows if len(row) != 2), None)
        if wrong is not None:
            raise InputError(
                f"--class_map {path} must have two columns; one row is {shorten(wrong)}."
            )
        return [(theirs.strip(), ours.strip()) for theirs, ours in rows]
    content = read_yaml(path, f"--class_map {path}")
    if not isinstance(content, dict) or not content:
        raise InputError(f"--class_map {path} must map the teacher's classes to ours.")
    return [pair for key, value in content.items() for pair in _entry(path, key, value)]


def _entry(path: Path, key: Any, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return [(str(theirs), str(key)) for theirs in value]
    if isinstance(value, dict) or value is None:
        raise InputError(
            f"--class_map {path}: {key} is mapped to {shorten(value)}, not to a class."
        )
    return [(str(key), str(value))]

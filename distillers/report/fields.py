"""JSON that others wrote, read field by field: what a file says may be anything."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillers.errors import InputError

LARGEST = 1e18  # sums of squares of such numbers are finite too


class NotCounted(InputError):  # noqa: N818, words that read
    """Why a report leaves out a run folder that is no damaged one.

    Attributes:
        kind: in one word, as "unfinished".
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Fields:
    """The fields of one JSON object, each of the type that is asked for.

    Args:
        where: what to call the object in errors.
        content: what was read.

    Raises:
        InputError: when it is no object; likewise every method, for a field that is missing or of
            another type.
    """

    def __init__(self, where: str, content: object) -> None:
        if not isinstance(content, dict):
            raise InputError(f"{where} holds no object.")
        self.where = where
        self.content: dict[str, Any] = content

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.content.get(name)
        if not isinstance(value, str) or not value:
            raise InputError(f"{self.where} says no {name}.")
        return shown(value)

    def number(self, name: str) -> float:
        """A finite number."""
        return finite(self.content.get(name), f"{self.where} says that {name} is")

    def count(self, name: str) -> int:
        """A whole number."""
        value = self.number(name)
        if value != int(value):
            raise InputError(f"{self.where} says that {name} is {value}.")
        return int(value)

    def optional(self, name: str) -> float | None:
        """A finite number, or None where there is none."""
        return None if self.content.get(name) is None else self.number(name)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object."""
        inner = Fields(f"{self.where}, {name},", self.content.get(name))
        return {shown(key): value for key, value in inner.content.items()}


def read_fields(folder: Path, name: str) -> Fields:
    """The object in a file of a run folder.

    Raises:
        NotCounted: when there is no such file.
        InputError: when it cannot be read or holds something else.
    """
    return Fields(name, parsed(name, text_of(folder / name)))


def text_of(path: Path) -> str:
    """The text of a file; raises as `read_fields` does."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotCounted("unfinished", f"{path.name} is missing.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from error


def parsed(where: str, text: str) -> Any:
    """What a JSON text says.

    Raises:
        InputError: when it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error


def finite(value: object, saying: str) -> float:
    """A number that a run may write; `saying` begins the error of anything else.

    Raises:
        InputError: for anything else.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) <= LARGEST:
        return value
    raise InputError(f"{saying} {shown(value)[:40]}.")


def all_finite(values: Sequence[Any]) -> bool:
    """Whether `finite` takes every value, found fast: a report of many runs asks it of millions."""
    if not {type(value) for value in values} <= {int, float}:
        return False
    within = all(
        -LARGEST <= end <= LARGEST for end in (min(values, default=0), max(values, default=0))
    )
    return within and not math.isnan(sum(values))  # which may hide from min and max


def shown(text: object) -> str:
    """A text that is safe to print: characters that cannot be seen are spelt out."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)

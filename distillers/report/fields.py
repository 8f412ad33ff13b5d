"""Checked access to the JSON files of a run folder, whose content may be anything."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillers.errors import InputError

LARGEST = 1e18  # keeps sums of squares finite


class SkippedRunError(InputError):
    """A run folder is intact but not part of a report.

    Attributes:
        kind: "unfinished" or "transfer".
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class JsonFields:
    """Fields of a JSON object, with checked types.

    Every method raises `InputError` when a field is missing or has another type.

    Args:
        where: name of the object in error messages.
        content: the parsed JSON.

    Raises:
        InputError: if the content is not an object.
    """

    def __init__(self, where: str, content: object) -> None:
        if not isinstance(content, dict):
            raise InputError(f"{where} is not a JSON object.")
        self.where = where
        self.content: dict[str, Any] = content

    def string(self, name: str) -> str:
        """Return a non-empty string."""
        value = self.content.get(name)
        if not isinstance(value, str) or not value:
            raise InputError(f"{self.where} has no {name}.")
        return printable(value)

    def number(self, name: str) -> float:
        """Return a finite number."""
        return check_finite(self.content.get(name), f"{self.where}: {name}")

    def integer(self, name: str) -> int:
        """Return a whole number."""
        value = self.number(name)
        if value != int(value):
            raise InputError(f"{self.where}: {name} is {value}, not a whole number.")
        return int(value)

    def optional_number(self, name: str) -> float | None:
        """Return a finite number, or None if the field is missing or null."""
        return None if self.content.get(name) is None else self.number(name)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a nested object with printable keys."""
        inner = JsonFields(f"{self.where}, {name},", self.content.get(name))
        return {printable(key): value for key, value in inner.content.items()}


def read_fields(folder: Path, name: str) -> JsonFields:
    """Read a JSON file of a run folder.

    Raises:
        SkippedRunError: if the file is missing.
        InputError: if it cannot be read or is not a JSON object.
    """
    return JsonFields(name, parse_json(name, read_text(folder / name)))


def read_text(path: Path) -> str:
    """Read a text file; raises as `read_fields` does."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SkippedRunError("unfinished", f"{path.name} is missing.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from error


def parse_json(where: str, text: str) -> Any:
    """Parse JSON.

    Raises:
        InputError: naming `where`, if the text is not valid JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error


def check_finite(value: object, name: str) -> float:
    """Return a number that a run may write.

    Raises:
        InputError: naming `name`, for anything but a number of at most `LARGEST`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) <= LARGEST:
        return value
    raise InputError(f"{name} is {printable(value)[:40]}.")


def all_finite(values: Sequence[Any]) -> bool:
    """Return whether `check_finite` accepts every value; fast enough for millions of them."""
    if not {type(value) for value in values} <= {int, float}:
        return False
    ends = min(values, default=0), max(values, default=0)
    return ends[0] >= -LARGEST and ends[1] <= LARGEST and not math.isnan(sum(values))


def printable(text: object) -> str:
    """Convert to a string in which characters that cannot be printed are escaped."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)

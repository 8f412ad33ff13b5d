"""Types and ranges of plain values from files, declared as annotations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

MAX_TEXT = 1000  # characters
MAX_DEPTH = 8


@dataclass(frozen=True)
class Bounds:
    """The smallest and the largest allowed number, or number of items of a list."""

    low: float
    high: float


def find_problem(value: object, hint: Any) -> str:
    """Return what a value is and what it should be; "" if it is valid.

    Args:
        value: what a file holds.
        hint: `str`, `bool`, `Any`, `dict[str, Any]`, `Annotated[int | float, Bounds]`,
            `Annotated[list[...], Bounds]`, or one of these `| None`.
    """
    if get_origin(hint) in (UnionType, Union):  # X | None
        return "" if value is None else find_problem(value, get_args(hint)[0])
    kind, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(kind) is list:
        return _list_problem(value, get_args(kind)[0], *limits)
    if kind is Any:
        return "" if is_plain(value) else f"{describe_value(value)}, not a plain value"
    if get_origin(kind) is dict:
        is_valid = isinstance(value, dict) and is_plain(value)
        return "" if is_valid else f"{describe_value(value)}, not a mapping"
    if kind is str:
        is_valid = isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_TEXT
        return "" if is_valid else f"{describe_value(value)}, not a text"
    if kind is bool:
        return "" if isinstance(value, bool) else f"{describe_value(value)}, not true or false"
    return _number_problem(value, kind, limits[0])


def _list_problem(value: object, item: Any, length: Bounds) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{describe_value(value)}, not a list"
    if not length.low <= len(value) <= length.high:
        return f"a list of {len(value)} items, not of {length.low} to {length.high}"
    return next(filter(None, (find_problem(each, item) for each in value)), "")


def _number_problem(value: object, kind: type, bounds: Bounds) -> str:
    types = (int,) if kind is int else (int, float)
    is_number = isinstance(value, types) and not isinstance(value, bool)
    if is_number and bounds.low <= value <= bounds.high:
        return ""
    what = "a whole number" if kind is int else "a number"
    return f"{describe_value(value)}, not {what} from {bounds.low:g} to {bounds.high:g}"


def is_plain(value: object, depth: int = MAX_DEPTH) -> bool:
    """Return whether a value consists of JSON types with finite numbers."""
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, str | int):
        return True
    if not depth:
        return False
    if isinstance(value, Mapping):
        keys = all(isinstance(key, str) for key in value)
        return keys and all(is_plain(each, depth - 1) for each in value.values())
    return isinstance(value, list | tuple) and all(is_plain(each, depth - 1) for each in value)


def describe_value(value: object) -> str:
    """Return a short printable form of any value, for messages."""
    text = (
        repr(value) if isinstance(value, str | int | float | list | tuple) else type(value).__name__
    )
    return text if len(text) <= 60 else f"{text[:57]}..."

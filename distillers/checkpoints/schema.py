"""Types and ranges of the entries of a card, checked where a file is read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_origin, get_type_hints

from distillers.errors import InputError

MAX_TEXT = 1000  # characters
MAX_DEPTH = 8


@dataclass(frozen=True)
class Bounds:
    """The smallest and the largest allowed number."""

    low: float
    high: float


@dataclass(frozen=True)
class Length:
    """The smallest and the largest allowed number of items of a list."""

    low: int
    high: int


Classes = Annotated[int, Bounds(1, 10**6)]
Pixels = Annotated[int, Bounds(1, 4096)]
Count = Annotated[int, Bounds(0, 10**15)]
Percent = Annotated[float, Bounds(0, 100)]
Mean = Annotated[float, Bounds(-1000, 1000)]
Std = Annotated[float, Bounds(1e-6, 1000)]


class Card(TypedDict, total=False):
    """The description of a network in its file; every entry may be missing or None.

    Attributes:
        format: version of the layout of the file.
        model: architecture, as in `distillers.models.create`.
        num_classes: number of logits.
        class_names: names of the classes.
        image_size: side of the images in pixels.
        shorter_side: pixels to which the shorter side is resized before the crop.
        mean: mean of the normalisation, for one channel or each.
        std: standard deviation of the normalisation.
        channels_last: whether it was evaluated in this memory format.
        dataset: name of the data set that it was trained on.
        data: digest of the labels of that data set.
        accuracy: on the test images.
        parameters: number of parameters.
        macs: multiply-accumulates for one image.
        distillers: version that wrote the file.
        deploy: structure of a network that a loss deployed, with the "name" of the loss.
        distilled: teacher and losses of a student.
        transferred: origin of a network that was transferred.
    """

    format: Annotated[int, Bounds(1, 10**6)]
    model: str
    num_classes: Classes
    class_names: Annotated[list[str], Length(1, 10**6)]
    image_size: Pixels
    shorter_side: Pixels
    mean: Annotated[list[Mean], Length(1, 16)]
    std: Annotated[list[Std], Length(1, 16)]
    channels_last: bool
    dataset: str
    data: str
    accuracy: Percent
    parameters: Count
    macs: Count
    distillers: str
    deploy: dict[str, Any]
    distilled: dict[str, Any]
    transferred: dict[str, Any]


def check_card(card: object, path: str | Path) -> dict[str, Any]:
    """Return a card from a file after checking it.

    Raises:
        InputError: if it is not a mapping, or an entry has the wrong type or is out of range.
    """
    if not isinstance(card, dict):
        raise InputError(f"the card in {path} is a {type(card).__name__}, not a mapping.")
    hints = get_type_hints(Card, include_extras=True)
    for name, value in card.items():
        problem = _problem(value, hints.get(name, Any)) if value is not None else ""
        if problem or not isinstance(name, str):
            raise InputError(f"the card in {path} is not valid: {_show(name)} is {problem}.")
    names, classes = card.get("class_names"), card.get("num_classes")
    if names and classes and len(names) != classes:
        raise InputError(
            f"the card in {path} is not valid: it has {len(names)} class_names for num_classes "
            f"{classes}."
        )
    return card


def _problem(value: object, hint: Any) -> str:
    """Return what a value is and what it should be; "" if it is valid."""
    kind, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(kind) is list:
        return _list_problem(value, get_args(kind)[0], *limits)
    if kind is Any or get_origin(kind) is dict:
        is_valid = is_plain(value) and (kind is Any or isinstance(value, dict))
        return (
            ""
            if is_valid
            else f"{_show(value)}, not a {'plain value' if kind is Any else 'mapping'}"
        )
    if kind is str:
        is_valid = isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_TEXT
        return "" if is_valid else f"{_show(value)}, not a text"
    if kind is bool:
        return "" if isinstance(value, bool) else f"{_show(value)}, not true or false"
    return _number_problem(value, kind, limits[0])


def _list_problem(value: object, item: Any, length: Length) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return f"{_show(value)}, not a list"
    if not length.low <= len(value) <= length.high:
        return f"a list of {len(value)} items, not of {length.low} to {length.high}"
    return next(filter(None, (_problem(each, item) for each in value)), "")


def _number_problem(value: object, kind: type, bounds: Bounds) -> str:
    types = (int,) if kind is int else (int, float)
    is_number = isinstance(value, types) and not isinstance(value, bool)
    if is_number and bounds.low <= value <= bounds.high:
        return ""
    what = "a whole number" if kind is int else "a number"
    return f"{_show(value)}, not {what} from {bounds.low:g} to {bounds.high:g}"


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


def _show(value: object) -> str:
    """Return a short printable form of any value."""
    text = (
        repr(value) if isinstance(value, str | int | float | list | tuple) else type(value).__name__
    )
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Read and write the card of a teacher cache: its identity and its parts."""

import math
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from distillers.config.run_files import CorruptFileError, check_fields, dump_json, load_json
from distillers.config.schema import Bounds
from distillers.distillation.cache.key import FORMAT
from distillers.errors import InputError
from distillers.files import file_name, write_atomically

CARD = "cache.json"
MAX_VALUES = 2**31  # of a row

Count = Annotated[int, Bounds(1, 10**12)]


class _Card(TypedDict):
    format: Annotated[int, Bounds(0, 10**6)]
    made: str
    key: dict[str, Any]
    parts: dict[str, Any]


class _Teacher(TypedDict):
    model: str


class _Data(TypedDict):
    name: str
    images: NotRequired[Count]
    augmentation: NotRequired[str]


class _Part(TypedDict):
    shape: Annotated[list[Count], Bounds(1, 3)]


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card of the cache in a folder, with a checksum."""
    write_atomically(folder / CARD, dump_json(card))


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of the cache in a folder.

    Raises:
        InputError: if it cannot be read, is damaged, or was written by a newer version.
    """
    try:
        card, _ = load_json(folder / CARD)
        if isinstance(card.get("format"), int) and card["format"] > FORMAT:
            raise InputError(
                f"{folder} was written by a newer version of distillers; update to read it."
            )
        _check(card)
    except FileNotFoundError as error:
        raise InputError(f"{folder} is no teacher cache: it has no {CARD}.") from error
    except CorruptFileError as error:
        raise InputError(f"{folder / CARD} cannot be read: {error} Delete {folder}.") from error
    return card


def _check(card: dict[str, Any]) -> None:
    check_fields(card, _Card, CARD)
    for name, schema in (("teacher", _Teacher), ("data", _Data)):
        check_fields(_mapping(card["key"].get(name), name), schema, f"{name} in {CARD}")
    try:
        date.fromisoformat(card["made"])
    except ValueError as error:
        raise CorruptFileError(f"{CARD}: made is {card['made']:.60}, not a date.") from error
    for name, part in card["parts"].items():
        if name != file_name(name) or name.startswith("."):
            raise CorruptFileError(f"{CARD}: {name!r:.60} cannot be the name of a part.")
        check_fields(_mapping(part, name), _Part, f"{name} in {CARD}")
        if math.prod(part["shape"]) > MAX_VALUES:
            raise CorruptFileError(f"{CARD}: the shape of {name} has too many values.")


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorruptFileError(f"{CARD}: {name} is not a mapping.")
    return value

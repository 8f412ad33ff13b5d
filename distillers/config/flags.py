"""Facts about flags, written once in their annotations; nothing here imports torch.

Everything that the library must know about a flag stands where the flag is declared, as in
`epochs: Annotated[int, AT_LEAST_1, Fact.SAME_COST] = 240`. Checks, hashes, reports, estimates and
grids derive what they need from these annotations.
"""

import enum
import inspect
import json
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

from distillers.errors import InputError

Marker = TypeVar("Marker")


class Fact(enum.Enum):
    """A fact about a flag."""

    NO_EFFECT = "changes no result of a run; not part of the run folder's hash"
    SAME_COST = "changes what a run learns but not what an epoch costs"
    PATH = "a path; a leading ~ is the home directory"
    PUBLISHED_SETTING = "must have its published value in a comparison with published numbers"
    NEEDS_TEACHER = "means nothing for a network that is trained alone"
    OWN_COLUMN = "a report shows it as network, method or weight, not among the training flags"


@dataclass(frozen=True)
class Range:
    """The numbers that a flag accepts; None and text are not checked.

    Attributes:
        allowed: the range in words, for error messages.
        contains: whether a number is in it.
    """

    allowed: str
    contains: Callable[[float], bool]


@dataclass(frozen=True)
class LossOption:
    """The options of losses that a flag sets, as in "kd.temperature"."""

    targets: tuple[str, ...]


@dataclass(frozen=True)
class NotInGrid:
    """Why the grid of a sweep may not set the flag."""

    reason: str


def at_least(low: float) -> Range:
    """Return the finite numbers from `low`."""
    return Range(f"at least {low}", lambda value: low <= value < math.inf)


AT_LEAST_1 = at_least(1)
NOT_NEGATIVE = Range("0 or more", lambda value: 0 <= value < math.inf)
POSITIVE = Range("greater than 0", lambda value: 0 < value < math.inf)
FRACTION = Range("in [0, 1)", lambda value: 0 <= value < 1)
INSIDE = Range("in (0, 1)", lambda value: 0 < value < 1)
UP_TO_1 = Range("in [0, 1]", lambda value: 0 <= value <= 1)


def markers(config: type) -> dict[str, tuple[Any, ...]]:
    """Return the annotations of every flag of a dataclass.

    A subclass that declares a flag again, to change its default or its help, inherits the
    annotations of the base class unless it gives others.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for base in reversed(config.__mro__):
        for name, annotation in inspect.get_annotations(base).items():
            own = getattr(annotation, "__metadata__", ())
            kept = [m for m in found.get(name, ()) if not any(type(m) is type(n) for n in own)]
            found[name] = (*kept, *own)
    return found


def marked(config: type, kind: type[Marker]) -> Iterator[tuple[str, Marker]]:
    """Yield each flag that has an annotation of type `kind`, with that annotation."""
    for name, own in markers(config).items():
        yield from ((name, marker) for marker in own if isinstance(marker, kind))


@cache
def flags_with(config: type, fact: Fact) -> tuple[str, ...]:
    """Return the names of the flags of a dataclass of which a fact holds."""
    return tuple(name for name, own in markers(config).items() if fact in own)


def result_flags(config: type, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags, by name as JSON types, that can change the results of a run."""
    without = flags_with(config, Fact.NO_EFFECT)
    kept = {name: value for name, value in flags.items() if name not in without}
    if flags["dataset"] == "folder":  # the name does not identify the images
        kept["data_dir"] = flags["data_dir"]
    if "teacher_cache" in kept:  # its half precision changes results, its location does not
        kept["teacher_cache"] = kept["teacher_cache"] is not None
    return kept


def default_flags(config: type) -> dict[str, Any]:
    """Return the default of every flag of a dataclass, as JSON types."""
    return as_json_types({field.name: field.default for field in fields(config)})


def check_ranges(config: object) -> None:
    """Check every flag that is annotated with a `Range`."""
    for name, numbers in marked(type(config), Range):
        value = getattr(config, name)
        if isinstance(value, int | float):
            require(name, value, numbers.contains(value), numbers.allowed)


def require(flag: str, value: object, valid: bool, allowed: str) -> None:
    """Raise an `InputError` with a flag, its value and what is allowed, unless it is `valid`."""
    if not valid:
        raise InputError(f"--{flag} is {value}; it must be {allowed}.")


def require_folder_of(flag: str, path: Path) -> None:
    """Raise an `InputError` unless the folder in which a flag has a file written exists."""
    if not path.parent.is_dir():
        raise InputError(f"--{flag} is {path}, but the folder {path.parent} does not exist.")


def output_paths(
    config: object, flags: Iterable[str], folders: Container[str] = ()
) -> dict[str, Path]:
    """Return the files that flags name for output, by flag; those in `folders` name folders.

    Raises:
        InputError: if one cannot be written, or two flags name the same.
    """
    given = {flag: getattr(config, flag) for flag in flags}
    outputs = {flag: Path(path).expanduser() for flag, path in given.items() if path is not None}
    for flag, path in outputs.items():
        require_folder_of(flag, path)
        if path.exists() and path.is_dir() != (flag in folders):
            what, wanted = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
            raise InputError(f"--{flag} is {path}, {what}; name {wanted}.")
        twins = [other for other in outputs if outputs[other].absolute() == path.absolute()]
        if len(twins) > 1:
            raise InputError(f"--{' and --'.join(twins)} are both {path}; name two files.")
    return outputs


def as_json_types(content: Any) -> Any:
    """Return `content` as JSON types; objects of other types become text."""
    return json.loads(json.dumps(content, default=str))


def flag_words(name: str, value: object) -> list[str]:
    """Return a flag as words of a command line; no words if the value is None."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if value is None:
        return []
    if isinstance(value, list):
        if all(isinstance(part, list) for part in value):  # as a run's config.json has --option
            value = [each for part in value for each in part]
        separate = all(isinstance(each, str) for each in value)
        return [f"--{name}", *value] if separate else [f"--{name}", ",".join(map(str, value))]
    return [f"--{name}", str(value)]


def _list_parser(
    metavar: str, parse: Callable[[list[str]], tuple[Any, ...]]
) -> PrimitiveConstructorSpec:
    """Return the parser of a flag with a list as its value; no words are the empty list."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))] if value else [],
    )


def _parser_of(kind: type) -> Callable[[list[str]], tuple[Any, ...]]:
    return lambda args: tuple(kind(part) for part in ",".join(args).split(",") if part.strip())


def _parse_names(args: list[str]) -> tuple[str, ...]:
    return tuple(part for arg in args for part in arg.replace(",", " ").split())


Milestones = Annotated[tuple[int, ...], _list_parser("EPOCH,EPOCH,...", _parser_of(int))]
Numbers = Annotated[tuple[float, ...], _list_parser("NUMBER,NUMBER,...", _parser_of(float))]
ModulePaths = Annotated[tuple[str, ...], _list_parser("PATH,PATH,...", _parse_names)]
Names = Annotated[tuple[str, ...], _list_parser("NAME,NAME,...", _parse_names)]
Words = Annotated[tuple[str, ...], _list_parser("[VALUE ...]", tuple)]

PUBLISHED = "published"  # the value of --pretrained without a file


def _parse_weights(args: list[str]) -> str:
    if len(args) > 1:
        raise ValueError("expected one file, or none for the published weights")
    return args[0] if args else PUBLISHED


Pretrained = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[FILE]",
        instance_from_str=_parse_weights,
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [value] if value else [],
    ),
    Fact.PATH,
    Fact.PUBLISHED_SETTING,
]
Protocol = Literal["simkd", "crd"]

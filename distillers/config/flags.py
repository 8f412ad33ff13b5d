"""Types of flags, and checks of their values; nothing here imports torch."""

import json
from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from distillers.errors import InputError


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


Milestones = Annotated[
    tuple[int, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="EPOCH,EPOCH,...",
        instance_from_str=lambda args: _numbers(",".join(args)),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]

PUBLISHED = "published"  # what --pretrained alone stands for


def _one_file(args: list[str]) -> str:
    if len(args) > 1:
        raise ValueError("it takes one file, or none for the published weights")
    return args[0] if args else PUBLISHED


Pretrained = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[FILE]",
        instance_from_str=_one_file,
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [value] if value else [],
    ),
]
Protocol = Literal["simkd", "crd"]


def as_json_types(content: Any) -> Any:
    """`content` as JSON types; what is none of them as text."""
    return json.loads(json.dumps(content, default=str))


def require(flag: str, value: object, good: bool, allowed: str) -> None:
    """Refuse a flag's value.

    Raises:
        InputError: when it is not `good`, saying what is `allowed`.
    """
    if not good:
        raise InputError(f"--{flag} is {value}; it must be {allowed}.")

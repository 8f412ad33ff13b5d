"""Augmentation of training images, and the names of its policies; nothing here imports torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from distillers.config.flags import Range
from distillers.errors import InputError, unknown

AT_LEAST_0 = Range("0 or more", lambda value: 0 <= value < math.inf)
UP_TO_1 = Range("in [0, 1]", lambda value: 0 <= value <= 1)
SWITCH = Range("0 or 1", lambda value: value in (0, 1))
COUNT = Range("a whole number from 1 to 10", lambda value: value in range(1, 11))
TOP = Range("from 1 to 30", lambda value: 1 <= value <= 30)
NOISE = {"mstd": Range("0 or more", lambda value: value >= 0)}
# The settings of each policy, with what they may be.
POLICIES: dict[str, Mapping[str, Range]] = {
    "rand": {"m": AT_LEAST_0, "n": COUNT, "p": UP_TO_1, "mmax": TOP, "inc": SWITCH, **NOISE},
    "augmix": {
        "m": AT_LEAST_0,
        "w": COUNT,
        "d": COUNT,
        "a": Range("greater than 0", lambda value: 0 < value < math.inf),
        "b": SWITCH,
        **NOISE,
    },
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), NOISE),
    "trivial": {},
    "fixmatch": {},
}
SETS = ("weights", "3a", "3aw")  # of operations, as in rand-tweights
LEVELS = 10  # magnitudes are from 0 to this, unless mmax is another limit


@dataclass(frozen=True)
class Policy:
    """What a text such as "rand-m9-mstd0.5-inc1" says.

    Attributes:
        name: one of `POLICIES`.
        settings: numbers by name, those that are given.
        operations: set of operations of RandAugment, one of `SETS`, or "" for the usual ones.
    """

    name: str
    settings: Mapping[str, float]
    operations: str = ""

    @property
    def highest(self) -> float:
        """The largest magnitude."""
        return self.settings.get("mmax", LEVELS)


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented; names and meanings are those of timm where it has them.

    Attributes:
        aa: policy of the images, as `parse_policy` reads it; None for none.
        strong_aa: policy of a second view of each image; None for no second view.
    """

    aa: str | None = None
    strong_aa: str | None = None


def parse_policy(text: str, flag: str = "aa") -> Policy:
    """Read the name of a policy and its settings, in the way of timm's --aa.

    Args:
        text: as in "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original" or "trivial".
        flag: where it was given.

    Raises:
        InputError: if the name or a setting is unknown, or a number out of its range.
    """
    name, *sections = text.split("-")
    if name not in POLICIES:
        raise unknown(f"policy in --{flag}", name, POLICIES)
    settings, operations = {}, ""
    for section in sections:
        if name == "rand" and section.startswith("t"):
            operations = section[1:]
            if operations not in SETS:
                raise unknown(f"set of operations in --{flag} {text}", operations, SETS)
            continue
        key, value = _setting(section, text, flag)
        if key not in POLICIES[name]:
            known = [*POLICIES[name], *(["t"] if name == "rand" else [])]
            raise unknown(f"setting of {name} in --{flag} {text}", key, known)
        allowed = POLICIES[name][key]
        if not allowed.contains(value):
            raise InputError(f"--{flag} {text}: {key} is {value:g}; it must be {allowed.allowed}.")
        settings[key] = value
    policy = Policy(name, settings, operations)
    magnitude = settings.get("m", 0)
    if magnitude > policy.highest:
        more = f"; {name}-m{magnitude:g}-mmax{magnitude:g} allows more" if name == "rand" else ""
        raise InputError(
            f"--{flag} {text}: the magnitude m is {magnitude:g}; it must be from 0 to "
            f"{policy.highest:g}{more}."
        )
    return policy


def _setting(section: str, text: str, flag: str) -> tuple[str, float]:
    """Split a section such as "mstd0.5".

    Raises:
        InputError: if it is not letters and a number.
    """
    found = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", section)
    if found is None:
        raise InputError(
            f"--{flag} {text}: {section!r} is not a name with a number, as in m9 or mstd0.5."
        )
    return found[1], float(found[2])

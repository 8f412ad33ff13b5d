"""Parsing and formatting of sizes, ages and counts; nothing here imports torch."""

import re
from collections.abc import Mapping

from distillers.errors import InputError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
DAYS = {"": 1.0, "D": 1.0, "W": 7.0, "H": 1 / 24}


def num_bytes(text: str, flag: str) -> int:
    """Parse a size such as "20GB", "1.5TB" or "500MB" into bytes; units are powers of 1,000."""
    return int(_parse(text, r"([KMGT]?)B?", UNITS, flag, "a size such as 20GB or 500MB"))


def num_days(text: str, flag: str) -> float:
    """Parse an age such as "30d", "2w" or "12h" into days."""
    return _parse(text, r"([DWH]?)", DAYS, flag, "an age such as 30d, 2w or 12h")


def _parse(text: str, unit: str, factors: Mapping[str, float], flag: str, form: str) -> float:
    found = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{unit}\s*", text, re.IGNORECASE)
    if not found:
        raise InputError(f"--{flag} is {text!r}; it must be {form}.")
    return float(found[1]) * factors[found[2].upper()]


def pluralize(number: float, noun: str) -> str:
    """Format a count with its noun, as in "1 run", "2 runs", "2 batches", "2 processes"."""
    ending = "es" if noun.endswith(("tch", "ss")) else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"


def format_bytes(count: float) -> str:
    """Format a size with three digits, in the form that `num_bytes` parses."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"

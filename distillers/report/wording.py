"""How a report writes its numbers."""

from collections.abc import Iterable
from typing import Any

from distillers.report.estimates import Difference, Estimate
from distillers.report.labels import value
from distillers.report.runs import SHARED

MISSING = "–"
RULE_NAMES = {"last": "last epoch", "best": "best test epoch", "held_out": "held-out epoch"}
TOLD = ("epochs", "batch_size", "learning_rate", "lr_decay_rate", "lr_decay_epochs", "weight_decay")


def percent(accuracy: float) -> str:
    """An accuracy as papers print it."""
    return f"{accuracy:.2f}"


def with_sd(score: Estimate | None, digits: int = 2) -> str:
    """Mean and standard deviation, as in "73.33 ± 0.24"."""
    if score is None:
        return MISSING
    sd = f" ± {score.sd:,.{digits}f}" if score.sd is not None else ""
    return f"{score.mean:,.{digits}f}{sd}"


def signed(number: float) -> str:
    """A difference with its sign; zero has none."""
    text = f"{abs(number):.2f}"
    if float(text) == 0:
        return text
    return ("+" if number > 0 else "−") + text


def interval(difference: Difference) -> str:
    """The ends of a confidence interval, or nothing."""
    if difference.low is None or difference.high is None:
        return ""
    return f"[{signed(difference.low)}, {signed(difference.high)}]"


def compact(count: float) -> str:
    """A large count in three digits: 78.0 k, 3.13 M, 4.11 G."""
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * power:
            return f"{count / power:#.3g}".rstrip(".") + f" {unit}"
    return f"{count:,.0f}"


def time_unit(hours: Iterable[float]) -> tuple[str, float]:
    """The unit that suits the longest of some times, and how many make an hour."""
    longest = max(hours, default=0.0)
    if longest >= 2:
        return "h", 1.0
    return ("min", 60.0) if longest >= 1 / 20 else ("s", 3600.0)


def scaled(score: Estimate, factor: float) -> Estimate:
    """An estimate in another unit."""
    sd = None if score.sd is None else score.sd * factor
    return Estimate(score.mean * factor, sd, score.n)


def described(setting: dict[str, Any], with_rate: bool = True) -> str:
    """How runs were trained, in words; flags that are not as usual by their names.

    Args:
        setting: see `distillers.report.runs.Run`.
        with_rate: whether the learning rate is that of all.
    """
    steps = value(setting["lr_decay_epochs"] or "no epoch")
    rate = f"learning rate {value(setting['learning_rate'])}" if with_rate else "learning rate"
    parts = [
        f"{value(setting['epochs'])} epochs of batches of {value(setting['batch_size'])}",
        f"{rate} times {value(setting['lr_decay_rate'])} after {steps.replace(',', ', ')}",
        f"weight decay {value(setting['weight_decay'])}",
    ]
    for name, given in setting.items():
        if name not in TOLD and given != SHARED.get(name):
            parts.append(f"{name} {value(given)}")
    return ", ".join(parts)


def plural(number: int, noun: str) -> str:
    """As in "1 run", "2 runs"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"

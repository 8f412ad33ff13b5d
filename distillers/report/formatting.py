"""Formatting of numbers and training flags."""

from collections.abc import Iterable

from distillers.config.sizes import pluralize
from distillers.report.comparisons import PairTable
from distillers.report.estimates import Difference, SampleStats
from distillers.report.labels import format_value
from distillers.report.run_folder import TRAINING_DEFAULTS

MISSING = "–"
RULE_NAMES = {"last": "last epoch", "best": "best test epoch", "held_out": "held-out epoch"}
SCHEDULE_FLAGS = (
    *("epochs", "batch_size", "learning_rate", "lr_decay_rate", "lr_decay_epochs"),
    "weight_decay",
)


def format_figure(value: float, *, signed: bool = False) -> str:
    """Format an interval's end or a difference for the terminal: counts whole, others to 1e-4."""
    sign = "+" if signed else ""
    return f"{value:{sign}d}" if isinstance(value, int) else f"{value:{sign}.4f}"


def format_percent(accuracy: float | None) -> str:
    """Format an accuracy with two decimals."""
    return MISSING if accuracy is None else f"{accuracy:.2f}"


def format_stats(stats: SampleStats | None, digits: int = 2) -> str:
    """Format mean and standard deviation, as in "73.33 ± 0.24"."""
    if stats is None:
        return MISSING
    sd = f" ± {stats.sd:,.{digits}f}" if stats.sd is not None else ""
    return f"{stats.mean:,.{digits}f}{sd}"


def format_signed(number: float) -> str:
    """Format a difference with its sign; zero has none."""
    text = f"{abs(number):.2f}"
    if float(text) == 0:
        return text
    return ("+" if number > 0 else "−") + text


def format_interval(difference: Difference) -> str:
    """Format the ends of a confidence interval, "" if there is none."""
    if difference.low is None or difference.high is None:
        return ""
    return f"[{format_signed(difference.low)}, {format_signed(difference.high)}]"


def format_count(count: float) -> str:
    """Format a count with three significant digits: 78.0 k, 3.13 M, 4.11 G."""
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * power:
            return f"{count / power:#.3g}".rstrip(".") + f" {unit}"
    return f"{count:,.0f}"


def time_unit(hours: Iterable[float]) -> tuple[str, float]:
    """Return the unit that suits the longest of some durations, and its number in an hour."""
    longest = max(hours, default=0.0)
    if longest >= 2:
        return "h", 1.0
    return ("min", 60.0) if longest >= 1 / 20 else ("s", 3600.0)


def describe_training(table: PairTable) -> str:
    """Describe the training of a table's rows: the schedule and other flags not at default."""
    flags = table.flags
    steps = format_value(flags["lr_decay_epochs"] or "no epoch").replace(",", ", ")
    rate = f" {format_value(flags['learning_rate'])}" if table.teacher else ""
    parts = [
        f"{pluralize(flags['epochs'], 'epoch')} of batches of {format_value(flags['batch_size'])}",
        f"learning rate{rate} times {format_value(flags['lr_decay_rate'])} after {steps}",
        f"weight decay {format_value(flags['weight_decay'])}",
    ]
    for name, flag in flags.items():
        if name not in SCHEDULE_FLAGS and flag != TRAINING_DEFAULTS.get(name):
            parts.append(f"{name} {format_value(flag)}")
    return ", ".join(parts)

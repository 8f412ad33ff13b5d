"""Results printed in papers and repositories, from `published.csv`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from distillers.config.flags import Fact, flags_with
from distillers.config.sizes import pluralize
from distillers.config.student import StudentConfig
from distillers.distillation import recipes
from distillers.report.records import printable
from distillers.report.run_folder import STUDENT_DEFAULTS

# Flags that a run must share with the published ones to be comparable.
COMPARED_FLAGS = flags_with(StudentConfig, Fact.PUBLISHED_SETTING)
IMAGENET_FLAGS = {"batch_size": 256, "lr_decay_epochs": [30, 60, 90], "weight_decay": 1e-4}


@dataclass(frozen=True)
class PublishedResult:
    """A published accuracy.

    Attributes:
        dataset: name of the data set in this library.
        source: where the number is printed.
        protocol: whose loss weights the method had, "crd" or "simkd".
        rule: "last" epoch, "best" test epoch, or "unknown".
        teacher: the teacher network, "" for a network trained alone.
        student: the student network.
        method: name in this library with departures from the protocol, as in
            "simkd (simkd.factor=4)"; for methods that the library lacks the name in their paper.
        mean: accuracy in percent.
        sd: standard deviation, or None.
        n: number of runs, or None.
        epochs: number of epochs, or None.
        remark: anything else to know.
    """

    dataset: str
    source: str
    protocol: str
    rule: str
    teacher: str
    student: str
    method: str
    mean: float
    sd: float | None
    n: int | None
    epochs: int | None
    remark: str


def read() -> list[PublishedResult]:
    """Read all results."""
    import pandas as pd  # slow to import

    with files("distillers.report").joinpath("published.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype={"n": "Int64", "epochs": "Int64"})
    table[["teacher", "remark"]] = table[["teacher", "remark"]].fillna("")
    rows = table.astype(object).replace({float("nan"): None, pd.NA: None}).to_dict("records")
    return [PublishedResult(**{str(name): value for name, value in row.items()}) for row in rows]


def by_run(results: Iterable[PublishedResult]) -> dict[tuple[str, ...], list[PublishedResult]]:
    """Index results by data set, protocol, teacher, student and method.

    Networks trained alone, which have no loss weights, are listed under both protocols.
    """
    table: dict[tuple[str, ...], list[PublishedResult]] = defaultdict(list)
    for entry in results:
        for protocol in [entry.protocol] if entry.teacher else ["crd", "simkd"]:
            key = (entry.dataset, protocol, entry.teacher, entry.student, entry.method)
            table[key].append(entry)
    return dict(table)


def departures(entry: PublishedResult, flags: Mapping[str, Any]) -> list[str]:
    """Return how a run was trained differently, as in "20 epochs, not 240"."""
    side = 224 if entry.dataset == "imagenet" else 32
    own = IMAGENET_FLAGS if entry.dataset == "imagenet" else {}
    rate = recipes.learning_rate(entry.student, side)
    usual = {**STUDENT_DEFAULTS, **own, "learning_rate": rate, "image_size": side}
    flags = {**flags, "image_size": flags.get("image_size") or side}
    found = []
    if entry.epochs and flags["epochs"] != entry.epochs:
        found.append(f"{pluralize(flags['epochs'], 'epoch')}, not {entry.epochs}")
    return found + [
        f"{name} {printable(flags[name])}, not {usual[name]}"
        for name in COMPARED_FLAGS
        if flags.get(name, usual[name]) != usual[name]
    ]

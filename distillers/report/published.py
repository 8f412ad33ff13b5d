"""The numbers that papers and repositories print, from `published.csv`."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from distillers.distillation import recipes
from distillers.report.fields import shown
from distillers.report.runs import USUAL

# What a run shares with the published ones where it may be compared with them.
SCHEDULE = (
    *("batch_size", "lr_decay_epochs", "lr_decay_rate", "weight_decay", "momentum"),
    *("learning_rate", "precision", "accumulate", "clip_grad", "ema", "val_fraction"),
    *("image_size", "sync_bn", "on_nan", "pretrained", "views"),
)
IMAGENET = {"batch_size": 256, "lr_decay_epochs": [30, 60, 90], "weight_decay": 1e-4}


@dataclass(frozen=True)
class Published:
    """A published accuracy.

    Attributes:
        dataset: as in the library.
        source: where it is printed.
        protocol: whose weights the method had, "crd" or "simkd".
        rule: "last" epoch, "best" test epoch, or "unknown" where the source does not tell.
        teacher: the network, "" for a network alone.
        student: the network.
        method: in the library's spelling, with what departs from the protocol, as in
            "simkd (simkd.factor=4)"; one that the library does not have by its paper's name.
        mean: in percent.
        sd: where given.
        n: the number of runs, where given.
        epochs: of the training, where known.
        remark: what else to know.
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


def read() -> list[Published]:
    """The whole table."""
    text = files("distillers.report").joinpath("published.csv").read_text(encoding="utf-8")
    return [_entry(row) for row in csv.DictReader(text.splitlines())]


def by_run(entries: Iterable[Published]) -> dict[tuple[str, ...], list[Published]]:
    """The table by what it is looked up with: data set, protocol, teacher, student, method.

    A network alone has no weights, so that both protocols find it.
    """
    table: dict[tuple[str, ...], list[Published]] = {}
    for entry in entries:
        protocols = [entry.protocol] if entry.teacher else ["crd", "simkd"]
        for protocol in protocols:
            key = (entry.dataset, protocol, entry.teacher, entry.student, entry.method)
            table.setdefault(key, []).append(entry)
    return table


def departures(entry: Published, setting: Mapping[str, Any]) -> list[str]:
    """How a run was trained otherwise than the published ones, as in "20 epochs, not 240".

    Args:
        entry: the published number.
        setting: the run's, see `distillers.report.runs.Run`.
    """
    side = 224 if entry.dataset == "imagenet" else 32
    own = IMAGENET if entry.dataset == "imagenet" else {}
    rate = recipes.learning_rate(entry.student, side)
    usual = {**USUAL, **own, "learning_rate": rate, "image_size": side}
    setting = {**setting, "image_size": setting.get("image_size") or side}
    told = []
    if entry.epochs and setting["epochs"] != entry.epochs:
        told.append(f"{setting['epochs']} epochs, not {entry.epochs}")
    return told + [
        f"{name} {shown(setting[name])}, not {usual[name]}"
        for name in SCHEDULE
        if setting.get(name, usual[name]) != usual[name]
    ]


def _entry(row: dict[str, str]) -> Published:
    return Published(
        **{name: row[name] for name in ("dataset", "source", "protocol", "rule")},
        **{name: row[name] for name in ("teacher", "student", "method", "remark")},
        mean=float(row["mean"]),
        sd=float(row["sd"]) if row["sd"] else None,
        n=int(row["n"]) if row["n"] else None,
        epochs=int(row["epochs"]) if row["epochs"] else None,
    )

"""Read a run folder into a record."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillers.config.flags import (
    Fact,
    LossOption,
    default_flags,
    flags_with,
    marked,
    result_flags,
)
from distillers.config.run_files import (
    METRICS,
    SELECTED,
    MetricsRow,
    RunConfig,
    RunSummary,
    check_epochs,
    check_fields,
    field_hints,
    load_json,
    load_metrics,
    reported_part,
)
from distillers.config.schema import Bounds, find_problem
from distillers.config.sizes import pluralize
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.train import TrainConfig
from distillers.errors import CorruptFileError, InputError
from distillers.report.records import ALONE, RunRecord, UnreadableRun, printable

TAPS = ("taps_t", "taps_s")
# Defaults of the flags of students, and of those that students share with teachers.
STUDENT_DEFAULTS: dict[str, Any] = default_flags(StudentConfig)
TRAINING_DEFAULTS: dict[str, Any] = {
    f.name: STUDENT_DEFAULTS[f.name] for f in dataclasses.fields(TrainConfig)
}
# Flags that are no training flags: they are attributes of a run, loss settings or departures.
OTHER_FLAGS = {
    *flags_with(StudentConfig, Fact.OWN_COLUMN),
    *flags_with(TeacherConfig, Fact.OWN_COLUMN),
    *(name for name, _ in marked(StudentConfig, LossOption)),
}


class SkippedRunError(InputError):
    """A run folder is intact but not part of a report: "unfinished" or "transfer"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def read_run(folder: Path) -> RunRecord | UnreadableRun:
    """Read one run folder; errors become the reason of an `UnreadableRun`."""
    try:
        return _read(folder)
    except SkippedRunError as error:
        return UnreadableRun(printable(folder), printable(error), error.kind)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        return UnreadableRun(printable(folder), printable(error) or type(error).__name__)


def _read(folder: Path) -> RunRecord:
    config, has_checksum = _load(folder, "config.json")
    if "path_s" in config:
        raise SkippedRunError("transfer", "trains a linear classifier on another data set.")
    check_fields(config, RunConfig, "config.json")
    rows, curves_verified = _epochs(folder, config)
    selected = f"val_{SELECTED.get(config.get('select'), 'acc')}"
    curves, part = _curves(rows, selected), reported_part(rows[0])
    summary, summary_verified = _load(folder, "summary.json")
    check_fields(summary, RunSummary, "summary.json")
    environment, environment_verified = _load(folder, "environment.json")
    is_student = "model_s" in config
    departures = _get(summary, "departures") if is_student else {}
    departures |= {name: taps for name in TAPS if (taps := config.get(name))}
    identity = {
        "dataset": config["dataset"] + (" (val)" if part == "val" else ""),
        "protocol": _get(config, "protocol"),
        "teacher": _get(summary, "teacher") if is_student else None,
        "teacher_file": _get(summary, "teacher_sha256") if is_student else None,
        "student": _get(config, "model_s" if is_student else "model"),
        "loss_settings": _get(summary, "settings") if is_student else {},
        "departures": departures,
        "train_flags": _train_flags(config, curves["lr"][0]),
    }
    versions = (f"{name} {environment.get(name)}" for name in ("python", "torch", "revision"))
    return RunRecord(
        **identity,
        folder=printable(folder),
        trial=config["trial"],
        teacher_accuracy=summary.get("teacher_accuracy"),
        method=_method(config) if is_student else ALONE,
        data=summary.get("data"),
        group_key=json.dumps(identity, sort_keys=True),
        curve=tuple(curves[f"{part}_acc"]),
        scores=_scores(curves, part, selected),
        hours=summary["hours"],
        images_per_second=statistics.median(curves["images_per_second"]),
        peak_memory_mib=summary.get("peak_memory_mib"),
        parameters=summary["parameters"],
        macs=summary["macs"],
        latency_ms=summary["latency_ms"],
        busy_cores=summary.get("busy_cores"),
        device=_device(summary),
        devices=summary["devices"],
        versions=", ".join(versions),
        is_verified=has_checksum and curves_verified and summary_verified and environment_verified,
    )


def _load(folder: Path, name: str) -> tuple[dict[str, Any], bool]:
    """Load a JSON file, with strings made printable, and whether it has a checksum."""
    try:
        content, is_verified = load_json(folder / name)
    except FileNotFoundError as error:
        reason = f"{name} is missing."
        if name == "summary.json":
            reason = "every epoch is done, but summary.json is missing; --resume writes it."
        raise SkippedRunError("unfinished", reason) from error
    return _make_printable(content), is_verified


def _make_printable(content: Any) -> Any:
    if isinstance(content, dict):
        return {printable(name): _make_printable(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_make_printable(value) for value in content]
    return printable(content) if isinstance(content, str) else content


def _get(content: dict[str, Any], name: str) -> Any:
    """Return an entry that only some kinds of runs have; it must not be missing."""
    if content.get(name) is None:
        raise CorruptFileError(f"there is no {name}.")
    return content[name]


def _device(summary: dict[str, Any]) -> str:
    if summary["device"] != "cpu":
        return summary["device"]
    return f"cpu, {pluralize(_get(summary, 'cpu_threads'), 'thread')}"


def _epochs(folder: Path, config: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Load the rows of `metrics.jsonl` from epoch 1 to the last, and whether it has checksums.

    Raises:
        InputError: if a row is not as training writes it.
        SkippedRunError: if the last epochs are missing, unless --patience ended the run.
    """
    try:
        rows, is_verified = load_metrics(folder / METRICS)
    except FileNotFoundError as error:
        raise SkippedRunError("unfinished", f"{METRICS} is missing.") from error
    check_epochs(rows)
    epochs, done = config["epochs"], max(rows[-1]["epoch"], 0) if rows else 0
    if done > epochs:
        raise CorruptFileError(f"{METRICS} has {done} epochs, the run only {epochs}.")
    is_stopped = done and config.get("patience") and (folder / "summary.json").exists()
    if done < max(epochs, 1) and not is_stopped:
        raise SkippedRunError("unfinished", f"{done} of {epochs} epochs are done.")
    return rows[-done:], is_verified  # without those of a first stage


def _curves(rows: list[dict[str, Any]], selected: str) -> dict[str, list[float]]:
    """Return the columns that a report reads by name, with that which chooses the best epoch."""
    hints = field_hints(MetricsRow)
    figures = {name for name in ("test_acc", "val_acc", selected) if name in rows[0]}
    names = [*(figures or {"test_acc"}), "lr", "images_per_second"]
    return {name: column_of(rows, name, hints[name]) for name in names}


def column_of(rows: list[dict[str, Any]], name: str, hint: Any) -> list[float]:
    """Return a column of the metrics.

    Raises:
        CorruptFileError: naming a value that is not of the type `hint`, a number with `Bounds`.
    """
    values: list[Any] = [row.get(name) for row in rows]
    if not all_within(values, hint.__metadata__[0]):
        for value in values:
            if problem := find_problem(value, hint):
                raise CorruptFileError(f"{METRICS}: {name} is {problem}.")
    return values


def all_within(values: Sequence[Any], bounds: Bounds) -> bool:
    """Return whether all values are numbers within bounds; fast enough for millions of them."""
    if not {type(value) for value in values} <= {int, float}:
        return False
    ends = min(values, default=bounds.low), max(values, default=bounds.high)
    return bounds.low <= ends[0] and ends[1] <= bounds.high and not math.isnan(sum(values))


def _scores(curves: dict[str, list[float]], part: str, selected: str) -> dict[str, float]:
    accuracies = curves[f"{part}_acc"]
    scores = {"last": accuracies[-1], "best": max(accuracies)}
    if part == "test" and selected in curves:
        figures = curves[selected]
        best = min(figures) if selected == "val_loss" else max(figures)
        scores["held_out"] = accuracies[figures.index(best)]
    return {rule: float(accuracy) for rule, accuracy in scores.items()}


def _method(config: dict[str, Any]) -> str:
    """Return the names of the losses, KD last."""
    flags = {name: flag for name, flag in config.items() if name in STUDENT_DEFAULTS}
    names = StudentConfig(**flags).methods()
    return "+".join(sorted(names, key=lambda name: name == "kd"))


def _train_flags(config: dict[str, Any], rate: float) -> dict[str, Any]:
    """Return the other flags that affect the result, and the learning rate of the first epoch.

    Flags that only students have are left out at their default, so that students and networks
    trained alone compare as equal.
    """
    flags = result_flags(StudentConfig, {**TRAINING_DEFAULTS, **config})
    defaults = result_flags(StudentConfig, STUDENT_DEFAULTS)
    kept = {
        name: flags[name]
        for name in sorted(flags.keys() - OTHER_FLAGS)
        if name in TRAINING_DEFAULTS or flags[name] != defaults.get(name)
    }
    return {**kept, "learning_rate": rate}

"""Reading run folders into records and data frames."""

import dataclasses
import json
import multiprocessing
import os
import statistics
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillers.config.flags import (
    Fact,
    LossOption,
    default_flags,
    flags_with,
    marked,
    result_flags,
)
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.train import TrainConfig
from distillers.errors import InputError
from distillers.report.fields import (
    JsonFields,
    SkippedRunError,
    all_finite,
    check_finite,
    parse_json,
    printable,
    read_fields,
    read_text,
)
from distillers.report.records import ALONE, RunRecord, UnreadableRun, to_frame

if TYPE_CHECKING:
    from pandas import DataFrame

RUN_FILES = (
    *("config.json", "metrics.jsonl", "environment.json", "parameters.json", "summary.json"),
)
PARALLEL_FROM = 500  # folders
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


def load_runs(paths: Iterable[str | Path]) -> "DataFrame":
    """Load every finished run below some folders into a data frame, one row a run.

    The columns are the attributes of `RunRecord`, and one column for each selection rule in
    `RULES` with the test accuracy in percent. `frame.attrs["not_counted"]` lists the folders that
    were left out as (folder, kind, reason).

    Args:
        paths: run folders, or folders that contain run folders at any depth.

    Raises:
        InputError: if a folder does not exist.
    """
    found = read_runs(find_run_dirs(Path(path) for path in paths))
    frame = to_frame([run for run in found if isinstance(run, RunRecord)])
    unreadable = [run for run in found if isinstance(run, UnreadableRun)]
    frame.attrs["not_counted"] = [(run.folder, run.kind, run.reason) for run in unreadable]
    return frame


def find_run_dirs(roots: Iterable[Path]) -> list[Path]:
    """Find every run folder below some folders, each once.

    Symbolic links are followed only where they are given as a root.

    Raises:
        InputError: if a root does not exist.
    """
    found: dict[tuple[int, int], Path] = {}
    for root in roots:
        if not root.is_dir():
            raise InputError(f"there is no folder {root}.")
        for folder in _walk_run_dirs(root):
            status = folder.stat()
            found.setdefault((status.st_dev, status.st_ino), folder)
    return sorted(found.values())


def read_runs(folders: Sequence[Path]) -> list[RunRecord | UnreadableRun]:
    """Read run folders in order, many of them in one process per core.

    Processes are forked, which is safe only while this process has a single thread.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
    if len(folders) < PARALLEL_FROM or not can_fork:
        return [read_run(folder) for folder in folders]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(read_run, folders, chunksize=100))


def read_run(folder: Path) -> RunRecord | UnreadableRun:
    """Read one run folder; errors become the reason of an `UnreadableRun`."""
    try:
        return _read(folder)
    except SkippedRunError as error:
        return UnreadableRun(printable(folder), printable(error), error.kind)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        return UnreadableRun(printable(folder), printable(error) or type(error).__name__)


def _walk_run_dirs(root: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(root):
        here = Path(path)
        is_empty_run = not files and not folders and _has_run_name(here.name)
        if is_empty_run or "tensorboard" in folders or any(name in files for name in RUN_FILES):
            yield here
        folders[:] = [name for name in folders if name != "tensorboard" and name[0] != "."]


def _has_run_name(name: str) -> bool:
    return name.startswith("S_") or "_vanilla_" in name


def _read(folder: Path) -> RunRecord:
    config = read_fields(folder, "config.json")
    if "path_s" in config.content:
        raise SkippedRunError("transfer", "trains a linear classifier on another data set.")
    curves = _curves(folder, config.integer("epochs"))
    summary = _summary(folder)
    environment = read_fields(folder, "environment.json")
    versions = (
        f"{name} {printable(environment.content.get(name))}"
        for name in ("python", "torch", "revision")
    )
    is_student = "model_s" in config.content
    departures = summary.mapping("departures") if is_student else {}
    departures |= {name: taps for name in TAPS if (taps := config.content.get(name))}
    identity = {
        "dataset": config.string("dataset"),
        "protocol": config.string("protocol"),
        "teacher": summary.string("teacher") if is_student else None,
        "teacher_file": summary.string("teacher_sha256") if is_student else None,
        "student": config.string("model_s" if is_student else "model"),
        "loss_settings": summary.mapping("settings") if is_student else {},
        "departures": departures,
        "train_flags": _train_flags(config, curves["lr"][0]),
    }
    return RunRecord(
        **identity,
        folder=printable(folder),
        trial=config.integer("trial"),
        teacher_accuracy=summary.optional_number("teacher_accuracy"),
        method=_method(config) if is_student else ALONE,
        data=summary.string("data") if "data" in summary.content else None,
        group_key=json.dumps(identity, sort_keys=True),
        curve=tuple(curves["test_acc"]),
        scores=_scores(curves),
        hours=summary.number("hours"),
        images_per_second=statistics.median(curves["images_per_second"]),
        peak_memory_mib=summary.optional_number("peak_memory_mib"),
        parameters=summary.integer("parameters"),
        macs=summary.integer("macs"),
        latency_ms=summary.number("latency_ms"),
        device=_device(summary),
        devices=summary.integer("devices"),
        versions=", ".join(versions),
    )


def _device(summary: JsonFields) -> str:
    device = summary.string("device")
    if device != "cpu":
        return device
    threads = summary.integer("cpu_threads")
    return f"cpu, {threads} thread{'s' * (threads != 1)}"


def _curves(folder: Path, epochs: int) -> dict[str, list[float]]:
    """Read columns of `metrics.jsonl` from epoch 1 to the last.

    Raises:
        InputError: if a line is not as training writes it.
        SkippedRunError: if the last epochs are missing.
    """
    rows = _metrics(folder)
    numbers = _column(rows, "epoch")
    first = numbers[0] if numbers else 1
    if first > 1 or numbers != [first + n for n in range(len(numbers))]:
        raise InputError("the epochs in metrics.jsonl are not consecutive.")
    done = max(int(first) + len(rows) - 1, 0)
    if done > epochs:
        raise InputError(f"metrics.jsonl has {done} epochs, the run only {epochs}.")
    if done < max(epochs, 1):
        raise SkippedRunError("unfinished", f"{done} of {epochs} epochs are done.")
    rows = rows[-epochs:]  # without those of a first stage
    names = ["test_acc", "lr", "images_per_second", *(["val_acc"] if "val_acc" in rows[0] else [])]
    curves = {name: _column(rows, name) for name in names}
    if not all(0 <= accuracy <= 100 for accuracy in curves["test_acc"]):
        raise InputError("metrics.jsonl has a test_acc outside 0 to 100.")
    return curves


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = read_text(folder / "metrics.jsonl").splitlines()
    try:
        rows = json.loads(f"[{','.join(lines)}]")  # much faster than line by line
    except (ValueError, RecursionError):
        rows = [parse_json(f"metrics.jsonl, line {n},", line) for n, line in enumerate(lines, 1)]
    if any(type(row) is not dict for row in rows):
        raise InputError("a line of metrics.jsonl is not a JSON object.")
    return rows


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    values: list[Any] = [row.get(name) for row in rows]
    if not all_finite(values):
        for value in values:
            check_finite(value, f"metrics.jsonl: {name}")
    return values


def _summary(folder: Path) -> JsonFields:
    if not (folder / "summary.json").exists():
        reason = "every epoch is done, but summary.json is missing; --resume writes it."
        raise SkippedRunError("unfinished", reason)
    return read_fields(folder, "summary.json")


def _scores(curves: dict[str, list[float]]) -> dict[str, float]:
    accuracies = curves["test_acc"]
    scores = {"last": accuracies[-1], "best": max(accuracies)}
    if "val_acc" in curves:
        scores["held_out"] = accuracies[curves["val_acc"].index(max(curves["val_acc"]))]
    return {rule: float(accuracy) for rule, accuracy in scores.items()}


def _method(config: JsonFields) -> str:
    """Return the names of the losses, KD last."""
    flags = {name: flag for name, flag in config.content.items() if name in STUDENT_DEFAULTS}
    for name in ("distill", "loss", "memory_type"):
        if not isinstance(flags.get(name), str | None):
            raise InputError(f"config.json: {name} is {printable(flags[name])}.")
    names = StudentConfig(**flags).methods()
    return printable("+".join(sorted(names, key=lambda name: name == "kd")))


def _train_flags(config: JsonFields, rate: float) -> dict[str, Any]:
    """Return the other flags that affect the result, and the learning rate of the first epoch.

    Flags that only students have are left out at their default, so that students and networks
    trained alone compare as equal.
    """
    flags = result_flags(StudentConfig, {**TRAINING_DEFAULTS, **config.content})
    defaults = result_flags(StudentConfig, STUDENT_DEFAULTS)
    kept = {
        printable(name): flags[name]
        for name in sorted(flags.keys() - OTHER_FLAGS)
        if name in TRAINING_DEFAULTS or flags[name] != defaults.get(name)
    }
    return {**kept, "learning_rate": rate}

"""Run folders as a report reads them: whole ones, and those that cannot be counted."""

import dataclasses
import json
import multiprocessing
import os
import statistics
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillers.config.flags import as_json_types
from distillers.config.student import StudentConfig
from distillers.config.train import TrainConfig, result_flags
from distillers.errors import InputError
from distillers.report.fields import (
    Fields,
    NotCounted,
    all_finite,
    finite,
    parsed,
    read_fields,
    shown,
    text_of,
)

MARKS = ("config.json", "metrics.jsonl", "environment.json", "parameters.json", "summary.json")
MANY = 500  # folders from which on several processes read them
RULES = ("last", "best", "held_out")
ALONE = "alone"
TAPS = ("taps_t", "taps_s")
# The flags of students, and those that teachers share, with what they are if left out.
USUAL: dict[str, Any] = as_json_types(
    {f.name: f.default for f in dataclasses.fields(StudentConfig)}
)
SHARED: dict[str, Any] = {f.name: USUAL[f.name] for f in dataclasses.fields(TrainConfig)}
# Flags that are told elsewhere: in a run's own attributes, its settings or its departures.
ELSEWHERE = {
    *("dataset", "protocol", "trial", "learning_rate", "model", "model_s", "model_t", "path_t"),
    *("distill", "loss", "option", "cls", "div", "beta", "kd_T", "hint_layer", "factor", "soft"),
    *("feat_dim", "mode", "nce_k", "nce_t", "nce_t_s", "nce_t_t", "nce_m", "memory_type"),
    *("init_epochs", *TAPS),
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        dataset: its name.
        protocol: "crd" or "simkd".
        trial: its seed.
        teacher: the teacher's network, or None where there was no teacher.
        teacher_file: SHA-256 of the teacher's checkpoint, or None.
        teacher_accuracy: in percent, or None where it was not scored.
        student: the network that was trained.
        method: as in "crd+kd"; "alone" without a teacher.
        settings: weight by loss, and every option by "loss.option".
        departures: those settings, and modules that are read, that are not as published.
        setting: every other flag that matters, by name, as JSON.
        data: a digest of the labels that it was trained on; None where it is not known.
        same: what two runs of one row of a table share, as JSON: all that matters but the trial
            and the data.
        curve: test accuracy in percent after epoch 1, 2, ...
        scores: test accuracy by rule: of the "last" epoch, of the "best" by the test images
            themselves, and, where images were held out, of the best by those, "held_out".
        hours: wall-clock hours of the whole run.
        images_per_second: in training, the median over the epochs.
        peak_memory_mib: see `distillers.models.profile.peak_memory_mib`; None where not measured.
        parameters: of the deployed network.
        macs: multiply-accumulates of it for one image.
        latency_ms: of it for one image, on `device`.
        device: what trained it, and how many of them, as in "cpu, 2 threads".
        devices: how many of them.
        versions: of Python, torch and the source.
    """

    folder: str
    dataset: str
    protocol: str
    trial: int
    teacher: str | None
    teacher_file: str | None
    teacher_accuracy: float | None
    student: str
    method: str
    settings: dict[str, Any]
    departures: dict[str, Any]
    setting: dict[str, Any]
    data: str | None
    same: str
    curve: tuple[float, ...]
    scores: dict[str, float]
    hours: float
    images_per_second: float
    peak_memory_mib: float | None
    parameters: int
    macs: int
    latency_ms: float
    device: str
    devices: int
    versions: str


@dataclass(frozen=True)
class UnreadableRun:
    """A run folder that is not counted.

    Attributes:
        folder: where it lies.
        reason: what is wrong.
        kind: "damaged", "unfinished", "copy" of a run that is counted already, or "transfer".
    """

    folder: str
    reason: str
    kind: str = "damaged"


def find(roots: Iterable[Path]) -> list[Path]:
    """Every run folder in some trees, each once; links are followed only where they are given.

    Raises:
        InputError: when one of the folders does not exist.
    """
    found: dict[tuple[int, int], Path] = {}
    for root in roots:
        if not root.is_dir():
            raise InputError(f"there is no folder {root}.")
        for folder in _run_folders(root):
            place = folder.stat()
            found.setdefault((place.st_dev, place.st_ino), folder)
    return sorted(found.values())


def read_all(folders: Sequence[Path]) -> list[Run | UnreadableRun]:
    """Read folders, in their order; where they are many by a process on each core.

    Only where processes can be had as copies of this one, which has to be alone in its process.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods() and threading.active_count() == 1
    if len(folders) < MANY or not can_fork:
        return [read(folder) for folder in folders]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(read, folders, chunksize=100))


def read(folder: Path) -> Run | UnreadableRun:
    """Read one folder; whatever is wrong with it is told and not raised."""
    try:
        return _read(folder)
    except NotCounted as error:
        return UnreadableRun(shown(folder), shown(error), error.kind)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        return UnreadableRun(shown(folder), shown(error) or type(error).__name__)


def _run_folders(root: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(root):
        here = Path(path)
        empty = not files and not folders and _named_as_run(here.name)
        if empty or "tensorboard" in folders or any(mark in files for mark in MARKS):
            yield here
        folders[:] = [name for name in folders if name != "tensorboard" and name[0] != "."]


def _named_as_run(name: str) -> bool:
    return name.startswith("S_") or "_vanilla_" in name


def _read(folder: Path) -> Run:
    config = read_fields(folder, "config.json")
    if "path_s" in config.content:
        raise NotCounted("transfer", "a backbone on other data; reports compare distillations.")
    curves = _curves(folder, config.count("epochs"))
    summary = _summary(folder)
    environment = read_fields(folder, "environment.json")
    student = "model_s" in config.content
    dataset, protocol = config.text("dataset"), config.text("protocol")
    network = config.text("model_s" if student else "model")
    teacher = summary.text("teacher") if student else None
    teacher_file = summary.text("teacher_sha256") if student else None
    settings = summary.mapping("settings") if student else {}
    setting = _setting(config, curves["lr"][0])
    departures = summary.mapping("departures") if student else {}
    departures |= {name: v for name in TAPS if (v := config.content.get(name))}
    data = summary.text("data") if "data" in summary.content else None
    identity = [dataset, protocol, teacher, teacher_file, network, setting, settings, departures]
    device = summary.text("device")
    if device == "cpu":
        threads = summary.count("cpu_threads")
        device += f", {threads} thread{'s' * (threads != 1)}"
    return Run(
        folder=shown(folder),
        dataset=dataset,
        protocol=protocol,
        trial=config.count("trial"),
        teacher=teacher,
        teacher_file=teacher_file,
        teacher_accuracy=summary.optional("teacher_accuracy"),
        student=network,
        method=_method(config) if student else ALONE,
        settings=settings,
        departures=departures,
        setting=setting,
        data=data,
        same=json.dumps(identity, sort_keys=True),
        curve=tuple(curves["test_acc"]),
        scores=_scores(curves),
        hours=summary.number("hours"),
        images_per_second=statistics.median(curves["images_per_second"]),
        peak_memory_mib=summary.optional("peak_memory_mib"),
        parameters=summary.count("parameters"),
        macs=summary.count("macs"),
        latency_ms=summary.number("latency_ms"),
        device=device,
        devices=summary.count("devices"),
        versions=", ".join(
            f"{name} {shown(environment.content.get(name))}"
            for name in ("python", "torch", "revision")
        ),
    )


def _curves(folder: Path, epochs: int) -> dict[str, list[float]]:
    """The columns of `metrics.jsonl` that a report needs, from epoch 1 to the last.

    Raises:
        InputError: for a line that is not what a run writes.
        NotCounted: when the last epochs are missing.
    """
    lines = text_of(folder / "metrics.jsonl").splitlines()
    try:
        rows = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        rows = [parsed(f"metrics.jsonl, line {n},", line) for n, line in enumerate(lines, 1)]
    if any(type(row) is not dict for row in rows):
        raise InputError("metrics.jsonl has a line that is no object.")
    numbers = _column(rows, "epoch")
    first = numbers[0] if numbers else 1
    if first > 1 or numbers != [first + n for n in range(len(numbers))]:
        raise InputError("the epochs in metrics.jsonl do not follow one another.")
    reached = max(int(first) + len(rows) - 1, 0)
    if reached > epochs:
        raise InputError(f"metrics.jsonl goes to epoch {reached}, the run to {epochs}.")
    if reached < max(epochs, 1):
        raise NotCounted("unfinished", f"{reached} of {epochs} epochs are done.")
    rows = rows[-epochs:]  # without a first stage's
    names = ["test_acc", "lr", "images_per_second", *(["val_acc"] if "val_acc" in rows[0] else [])]
    curves = {name: _column(rows, name) for name in names}
    if not all(0 <= accuracy <= 100 for accuracy in curves["test_acc"]):
        raise InputError("metrics.jsonl has a test_acc that is no percentage.")
    return curves


def _column(rows: list[dict[str, Any]], name: str) -> list[float]:
    values: list[Any] = [row.get(name) for row in rows]
    if not all_finite(values):
        for value in values:
            finite(value, f"metrics.jsonl says that {name} is")
    return values


def _summary(folder: Path) -> Fields:
    if not (folder / "summary.json").exists():
        reason = "every epoch is done, but summary.json is missing; --resume writes it."
        raise NotCounted("unfinished", reason)
    return read_fields(folder, "summary.json")


def _scores(curves: dict[str, list[float]]) -> dict[str, float]:
    accuracies = curves["test_acc"]
    scores = {"last": accuracies[-1], "best": max(accuracies)}
    if "val_acc" in curves:
        scores["held_out"] = accuracies[curves["val_acc"].index(max(curves["val_acc"]))]
    return {rule: float(accuracy) for rule, accuracy in scores.items()}


def _method(config: Fields) -> str:
    """The methods in the library's spelling, plain KD last."""
    given = {name: value for name, value in config.content.items() if name in USUAL}
    for name in ("distill", "loss", "memory_type"):
        if not isinstance(given.get(name), str | None):
            raise InputError(f"config.json says that {name} is {shown(given[name])}.")
    names = StudentConfig(**given).methods()
    return shown("+".join([*(n for n in names if n != "kd"), *(n for n in names if n == "kd")]))


def _setting(config: Fields, rate: float) -> dict[str, Any]:
    """The other flags that matter, the rate as it was; a student's own where they are not usual."""
    every = result_flags({**SHARED, **config.content})
    names = sorted(every.keys() - ELSEWHERE)
    usual = result_flags(USUAL)
    own = {name for name in names if name not in SHARED and every[name] == usual.get(name)}
    setting = {shown(name): every[name] for name in names if name not in own}
    return {**setting, "learning_rate": rate}

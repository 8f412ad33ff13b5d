"""Expand a grid into runs: command lines, checked by the parser of their command."""

import contextlib
import io
import itertools
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from distillers import data, models
from distillers.checkpoints.load import load
from distillers.config.flags import flag_words
from distillers.config.parsing import parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.teachers import TeacherFlags
from distillers.config.trust import check_trusted, own_code_of
from distillers.distillation import loss_weights
from distillers.distillation.cache.pack_files import read_manifest
from distillers.errors import InputError, shorten, unknown
from distillers.files import file_name
from distillers.sweep.grid import Grid, Method, Pair, Teacher
from distillers.sweep.grid_file import TEACHER_FLAGS

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors", ".tar", ".bin", ".ckpt")
MAX_PRINTED = 4_000  # characters of what the parser of flags prints
SCRIPTS = {"teacher": "train_teacher.py", "student": "train_student.py"}
TrainedConfig = TeacherConfig | StudentConfig


@dataclass(frozen=True, eq=False)
class Run:
    """One training run of a sweep.

    Attributes:
        label: name for messages.
        command: "teacher" or "student".
        args: the flags.
        config: the parsed flags.
        folder: folder of the run.
        teacher: architectures of the teachers, joined by "+"; None without one.
        teacher_run: the run that trains the teacher, None if none has to.
    """

    label: str
    command: str
    args: tuple[str, ...]
    config: TrainedConfig
    folder: Path
    teacher: str | None = None
    teacher_run: "Run | None" = None

    @property
    def network(self) -> str:
        """Name of the network that is trained."""
        return self.config.network

    def command_line(self) -> str:
        """Return the command that executes the run by hand."""
        return shlex.join(["python", SCRIPTS[self.command], *self.args])


@dataclass
class ExpandedGrid:
    """The runs of a grid.

    Attributes:
        runs: teachers of other runs first, then by trial.
        num_points: number of combinations in the grid.
        other_labels: by folder of a run that several combinations share, the labels of the others.
    """

    runs: list[Run] = field(default_factory=list)
    num_points: int = 0
    other_labels: dict[Path, list[str]] = field(default_factory=dict)


def expand(grid: Grid) -> ExpandedGrid:
    """Return the runs of a grid; combinations that are the same run give one.

    Raises:
        InputError: if a flag, method, network, data set or weight is invalid, if a teacher's file
            does not exist, or if different combinations would share a folder.
    """
    grid.check()
    expanded = _Expansion(grid).expanded
    if not expanded.runs:
        raise InputError("the grid has no runs: no method is for one of its pairs.")
    teachers = {run.teacher_run.folder for run in expanded.runs if run.teacher_run}
    expanded.runs.sort(key=lambda run: run.folder not in teachers)
    return expanded


def find_teacher(grid: Grid, pair: Pair) -> Teacher:
    """Return the teacher of a pair: an entry of `teachers`, a network, or a file or run folder."""
    name = pair.teacher
    if name in grid.teachers:
        return grid.teachers[name]
    looks_like_path = ":" not in name and ("/" in name or name.endswith(CHECKPOINT_SUFFIXES))
    exists = name not in models.names() and os.path.exists(name)
    return Teacher(path=name) if looks_like_path or exists else Teacher(model=name)


class _Expansion:
    """Builds the runs of a grid; keeps what was parsed and read for runs that differ in trial."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.expanded = grid, ExpandedGrid()
        self._parse, self._architecture = cache(self._parse_and_check), cache(_architecture)
        self._weights: dict[tuple[str, ...], loss_weights.Weights] = {}
        self._by_folder: dict[Path, Run] = {}
        for trial, pair, method in itertools.product(grid.trials, grid.pairs, grid.methods):
            if method.applies_to(pair):
                for values in itertools.product(*grid.sets.values()):
                    swept = dict(zip(grid.sets, values, strict=True))
                    self._add_point(pair, method, swept, trial)

    def _add_point(self, pair: Pair, method: Method, swept: Mapping[str, Any], trial: int) -> None:
        self.expanded.num_points += 1
        flags = {**self.grid.fixed, **pair.flags, **method.flags, **swept}
        has_teacher = bool(method.flags.keys() & {"distill", "loss"})
        varied = {name: value for name, value in swept.items() if len(self.grid.sets[name]) > 1}
        values = ", ".join(f"{name} {shorten(value)}" for name, value in varied.items())
        names = pair.label if has_teacher else pair.student, method.label, values
        label = "  ".join(filter(None, (*names, f"trial {trial}")))
        if has_teacher:
            self._add(self._student_run(label, pair, flags, trial))
        else:
            self._add(self._teacher_run(label, pair.student, flags, trial))

    def _add(self, run: Run) -> Run:
        """Add a run, and return it or the earlier run that is the same."""
        earlier = self._by_folder.setdefault(run.folder, run)
        if earlier is run:
            self.expanded.runs.append(run)
            return run
        if earlier.config != run.config:
            raise InputError(
                f"{run.label!r} and {earlier.label!r} would be one run, in {run.folder}: they "
                f"differ in {_differences(earlier, run)} only, which changes no result."
            )
        labels = self.expanded.other_labels.setdefault(earlier.folder, [])
        if run.label not in (earlier.label, *labels):
            labels.append(run.label)
        return earlier

    def _teacher_run(self, label: str, model: str, flags: Mapping[str, Any], trial: int) -> Run:
        given = {name: value for name, value in flags.items() if name in TEACHER_FLAGS}
        args = self._args({"model": model, **given})
        config = self._config("teacher", label, args, trial)
        return Run(label, "teacher", _with_trial(args, trial), config, config.folder())

    def _student_run(self, label: str, pair: Pair, flags: Mapping[str, Any], trial: int) -> Run:
        path, teacher_run = self._teacher_of(pair)
        args = self._args({"path_t": path, "model_s": pair.student, **flags})
        config = self._config("student", label, args, trial)
        with _error_context(pair.label):
            teacher = self._architectures(config, teacher_run)
        if args not in self._weights:
            with _error_context(label):
                self._weights[args] = loss_weights.choose(config, teacher)
                loss_weights.options(config, self._weights[args], teacher)
        chosen = self._weights[args]
        folder = config.folder(chosen.ce, chosen.kd, chosen.method, teacher)
        args = _with_trial(args, trial)
        return Run(label, "student", args, config, folder, teacher, teacher_run)

    def _teacher_of(self, pair: Pair) -> tuple[str, Run | None]:
        """Return the teacher's checkpoint, and the run that trains it."""
        teacher = find_teacher(self.grid, pair)
        if teacher.path:
            return teacher.path, None
        label, flags = f"{pair.teacher}  teacher", {**self.grid.fixed, **teacher.flags}
        run = self._add(self._teacher_run(label, teacher.model, flags, teacher.trial))
        return str(run.folder / f"{file_name(teacher.model)}_best.pth"), run

    def _architectures(self, config: StudentConfig, teacher_run: Run | None) -> str:
        """Return the architectures of the teachers; the first may have to be trained yet."""
        first, *others = config.teachers()
        name = teacher_run.network if teacher_run else self._architecture(first)
        return "+".join([name, *map(self._architecture, others)])

    def _args(self, flags: Mapping[str, Any]) -> tuple[str, ...]:
        flags = {**flags, "save_dir": self.grid.save_dir}
        return tuple(word for name, value in flags.items() for word in flag_words(name, value))

    def _parse_and_check(self, command: str, args: tuple[str, ...]) -> TrainedConfig:
        kind = StudentConfig if command == "student" else TeacherConfig
        config = parse(kind, args, SCRIPTS[command])
        if self.grid.trusted is not None:  # before anything is imported
            check_trusted(own_code_of(config), self.grid.trusted, "the grid")
        config.check()
        _check_names(config)
        return config

    def _config(self, command: str, label: str, args: tuple[str, ...], trial: int) -> Any:
        with _error_context(label):
            return replace(self._parse(command, args), trial=trial)


def _architecture(teacher: TeacherFlags) -> str:
    """Return the architecture of a teacher: a file, a pack, or a network with published weights."""
    if teacher.is_named:
        return teacher.path
    path = Path(teacher.path).expanduser()
    if teacher.is_pack:
        return read_manifest(path)["teacher"]["model"]
    return load(path, model=teacher.model, programs=False).card["model"]


def _with_trial(args: tuple[str, ...], trial: int) -> tuple[str, ...]:
    return (*args, "--trial", str(trial))


@contextlib.contextmanager
def _error_context(label: str) -> Iterator[None]:
    """Add the run to error messages, including those that the parser of flags prints."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except SystemExit as error:
        raise InputError(f"{label}:\n{printed.getvalue()[:MAX_PRINTED]}") from error


def _check_names(config: TrainedConfig) -> None:
    """Check the names of the data set and the network; networks with ":" are checked later."""
    if config.dataset not in data.names():
        raise unknown("dataset", config.dataset, data.names())
    if ":" not in config.network and config.network not in models.names():
        models.create(config.network)  # raises, with the nearest name


def _differences(a: Run, b: Run) -> str:
    first, second = a.config.as_json_types(), b.config.as_json_types()
    return ", ".join(name for name in first if first[name] != second.get(name))

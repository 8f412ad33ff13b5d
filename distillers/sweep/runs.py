"""From a grid to its runs: the command line of each, read back by the parser of that command."""

import contextlib
import io
import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillers import data, models
from distillers.checkpoints.io import read
from distillers.checkpoints.network import model_name
from distillers.config.parsing import flag_words, parse
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.train import TrainConfig
from distillers.distillation import loss_weights as weights
from distillers.errors import InputError, unknown
from distillers.files import file_name
from distillers.sweep.grid import Grid, Method, Pair, teacher_of
from distillers.sweep.grid_file import TEACHER_FLAGS

SCRIPTS = {"teacher": "train_teacher.py", "student": "train_student.py"}


@dataclass(frozen=True, eq=False)
class Run:
    """One training run of a sweep.

    Attributes:
        label: what a person calls it.
        command: "teacher" or "student", of `distillers`.
        words: the flags.
        config: the same, parsed.
        folder: where it saves.
        teacher: the architecture of its teacher, None where it has none.
        needs: the run that trains its teacher, None where that is there.
    """

    label: str
    command: str
    words: tuple[str, ...]
    config: TeacherConfig | StudentConfig
    folder: Path
    teacher: str | None = None
    needs: "Run | None" = None

    @property
    def network(self) -> str:
        """The name of the network that it trains."""
        return network_of(self.config)

    def line(self) -> str:
        """The command that does the same by hand."""
        return shlex.join(["python", SCRIPTS[self.command], *self.words])


@dataclass
class Plan:
    """The runs of a grid.

    Attributes:
        runs: the teachers that others need, then the first trial of everything, then the next.
        points: how many combinations the grid has.
        twins: by folder of a run that several combinations share, the labels of the others.
    """

    runs: list[Run] = field(default_factory=list)
    points: int = 0
    twins: dict[Path, list[str]] = field(default_factory=dict)


def network_of(config: TrainConfig) -> str:
    """The name of the network that a run trains."""
    return getattr(config, "model_s", None) or getattr(config, "model", "")


def expand(grid: Grid) -> Plan:
    """Every run of a grid, combinations that are the same run taken once.

    Raises:
        InputError: for a flag, method or weight that cannot be; for a teacher that neither is a
            file nor is trained; for combinations that would share a folder but are not the same.
    """
    grid.check()
    plan = _Expansion(grid).plan
    needed = {run.needs.folder for run in plan.runs if run.needs}
    plan.runs.sort(key=lambda run: run.folder not in needed)  # what others wait for goes first
    return plan


class _Expansion:
    """The work of `expand`: what was parsed and read before is kept."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.plan = grid, Plan()
        self._parsed: dict[tuple[str, ...], Any] = {}
        self._chosen: dict[tuple[str, ...], weights.Weights] = {}
        self._names: dict[str, str] = {}
        self._by_folder: dict[Path, Run] = {}
        for trial, pair, method in itertools.product(grid.trials, grid.pairs, grid.methods):
            if not method.suits(pair):
                continue
            for flags, shown in _alternatives(grid):
                self.plan.points += 1
                self._add_point(pair, method, {**pair.flags, **method.flags, **flags}, trial, shown)

    def _add_point(
        self, pair: Pair, method: Method, flags: Mapping[str, Any], trial: int, shown: str
    ) -> None:
        alone = not flags.keys() & {"distill", "loss"}
        who = pair.student if alone else pair.name
        label = "  ".join(filter(None, (who, method.name, shown, f"trial {trial}")))
        flags = {**self.grid.fixed, **flags}
        if alone:
            self._add(self._teacher_run(label, pair.student, flags, trial))
            return
        self._add(self._student_run(label, pair, flags, trial))

    def _add(self, run: Run) -> Run:
        """Take a run up, or the one that is the same."""
        earlier = self._by_folder.setdefault(run.folder, run)
        if earlier is run:
            self.plan.runs.append(run)
            return run
        if earlier.config != run.config:
            raise InputError(
                f"{run.label!r} and {earlier.label!r} would be one run, in {run.folder}: they "
                f"differ in {_differences(earlier, run)} only, which changes no result."
            )
        twins = self.plan.twins.setdefault(earlier.folder, [])
        if run.label != earlier.label and run.label not in twins:
            twins.append(run.label)
        return earlier

    def _teacher_run(self, label: str, model: str, flags: Mapping[str, Any], trial: int) -> Run:
        given = {name: value for name, value in flags.items() if name in TEACHER_FLAGS}
        words = self._words({"model": model}, given)
        config = self._config(TeacherConfig, label, words, trial)
        return Run(label, "teacher", _with_trial(words, trial), config, config.folder())

    def _student_run(self, label: str, pair: Pair, flags: Mapping[str, Any], trial: int) -> Run:
        path, teacher, needs = self._teacher_of(pair, flags)
        first = {"path_t": path, "model_s": pair.student}
        words = self._words(first, flags)
        config = self._config(StudentConfig, label, words, trial)
        if words not in self._chosen:
            with _told(label):
                self._chosen[words] = weights.choose(config, teacher)
                weights.options(config, self._chosen[words], teacher)
        chosen = self._chosen[words]
        folder = config.folder(chosen.ce, chosen.kd, chosen.method, teacher)
        return Run(label, "student", _with_trial(words, trial), config, folder, teacher, needs)

    def _teacher_of(self, pair: Pair, flags: Mapping[str, Any]) -> tuple[str, str, Run | None]:
        """The checkpoint of a pair's teacher, its architecture, and the run that trains it."""
        teacher = teacher_of(self.grid, pair)
        if teacher.path:
            if teacher.path not in self._names:
                with _told(pair.name):
                    card = read(teacher.path).get("card") or {}
                    name = model_name(teacher.path, card, flags.get("model_t"))
                self._names[teacher.path] = name
            return teacher.path, self._names[teacher.path], None
        label, own = f"{pair.teacher}  teacher", {**self.grid.fixed, **teacher.flags}
        run = self._add(self._teacher_run(label, teacher.model, own, teacher.trial))
        return str(run.folder / f"{file_name(teacher.model)}_best.pth"), teacher.model, run

    def _words(self, first: Mapping[str, Any], flags: Mapping[str, Any]) -> tuple[str, ...]:
        every = {**first, **flags, "save_dir": self.grid.save_dir}
        return tuple(word for name, value in every.items() for word in flag_words(name, value))

    def _config(self, kind: type, label: str, words: tuple[str, ...], trial: int) -> Any:
        """The flags as their command reads them; each line is parsed once for all trials."""
        if words not in self._parsed:
            script = SCRIPTS["student" if kind is StudentConfig else "teacher"]
            with _told(label):
                config = parse(kind, _with_trial(words, trial), script)
                config.check()
                _check_names(config)
                self._parsed[words] = config
        return replace(self._parsed[words], trial=trial)


def _alternatives(grid: Grid) -> Iterator[tuple[dict[str, Any], str]]:
    """Every combination of the values in `set`, and how it is shown."""
    for values in itertools.product(*grid.sets.values()):
        flags = dict(zip(grid.sets, values, strict=True))
        swept = [name for name in flags if len(grid.sets[name]) > 1]
        yield flags, ", ".join(f"{name} {flags[name]}" for name in swept)


def _with_trial(words: tuple[str, ...], trial: int) -> tuple[str, ...]:
    return (*words, "--trial", str(trial))


@contextlib.contextmanager
def _told(label: str) -> Iterator[None]:
    """Say of which run an error is, those that the parser of flags prints too."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    except SystemExit as error:
        raise InputError(f"{label}:\n{printed.getvalue()}") from error


def _check_names(config: TrainConfig) -> None:
    """Refuse a data set or a network that has no name here; timm's and the user's come later."""
    if config.dataset not in data.names():
        raise unknown("dataset", config.dataset, data.names())
    network = network_of(config)
    if ":" not in network and network not in models.names():
        models.create(network)  # which tells the nearest


def _differences(a: Run, b: Run) -> str:
    first, second = a.config.as_json_types(), b.config.as_json_types()
    return ", ".join(name for name in first if first[name] != second.get(name))

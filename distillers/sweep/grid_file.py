"""Grids as people write them, in files and flags; what is wrong in one is named."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from distillers.config.flags import NotInGrid, marked
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.errors import InputError, unknown
from distillers.sweep.grid import ALONE, Grid, Method, Pair, Teacher, shown

TEACHER_FLAGS = frozenset(f.name for f in fields(TeacherConfig)) - {"model", "trial"}
STUDENT_FLAGS = frozenset(f.name for f in fields(StudentConfig)) - {"trial"}

NOT_IN_GRID = {
    name: marker.reason
    for config in (TeacherConfig, StudentConfig)
    for name, marker in marked(config, NotInGrid)
}


class OnceLoader(yaml.SafeLoader):
    """Reads YAML as `yaml.safe_load` does, but refuses a mapping that gives a name twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written: what it merges may give names that it gives, too."""
        node = super().compose_mapping_node(anchor)
        names = [str(key.value).replace("-", "_") for key, _ in node.value]
        twice = next((name for name in names if name != "<<" and names.count(name) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice} is given twice", node.start_mark
            )
        return node


def from_text(text: str, source: str) -> Grid:
    """Read a grid.

    Args:
        text: YAML or JSON.
        source: where it stands, for messages.

    Raises:
        InputError: naming the entry that cannot be.
    """
    try:
        content = yaml.load(text, OnceLoader)
    except yaml.YAMLError as error:
        raise InputError(f"cannot read the grid {source}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"the grid {source} must be a mapping with pairs, methods, trials, ...")
    known = {"set" if f.name == "sets" else f.name for f in fields(Grid)}
    for name in content:
        if name not in known:
            raise unknown(f"entry of a grid ({source})", str(name), known)
    given: dict[str, Any] = {name: value for name, value in content.items() if value is not None}
    grid = Grid(save_dir=str(given.get("save_dir", Grid.save_dir)))
    grid = changed(
        replace(grid, teachers=_teachers(given.get("teachers", {}))),
        pairs=_some(given, "pairs"),
        methods=_some(given, "methods"),
        trials=_some(given, "trials"),
        fixed=_mapping(given, "fixed"),
        sets=_mapping(given, "set"),
    )
    known = [(pair.teacher, pair.student) for pair in grid.pairs]
    for method in grid.methods:
        for pair in method.pairs:
            if pair not in known:
                names = map(" -> ".join, known)
                raise unknown(f"pair (for {method.name})", " -> ".join(pair), names)
    return grid


def from_file(path: str) -> Grid:
    """Read the grid in a file; see `from_text`."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the grid {path}: {error}") from error
    return from_text(text, path)


def changed(
    grid: Grid,
    *,
    pairs: Sequence[Any] = (),
    methods: Sequence[Any] = (),
    trials: Sequence[Any] = (),
    fixed: Mapping[str, Any] | None = None,
    sets: Mapping[str, Any] | None = None,
) -> Grid:
    """The grid with other pairs, methods and trials, where some are given, and more flags.

    Args:
        grid: as it was.
        pairs: "TEACHER -> STUDENT", or a mapping with "pair" and flags.
        methods: "crd+kd", "package.module:Loss", `ALONE`, or a mapping of flags (with "pairs" it
            is for).
        trials: whole numbers.
        fixed: flags of every run.
        sets: lists of values by flag.

    Raises:
        InputError: naming the entry that cannot be.
    """
    every = {name: _checked(name, value, "fixed") for name, value in (fixed or {}).items()}
    lists = {name: _values(name, value) for name, value in (sets or {}).items()}
    return replace(
        grid,
        pairs=tuple(map(_pair, pairs)) or grid.pairs,
        methods=tuple(map(_method, methods)) or grid.methods,
        trials=tuple(map(_trial, trials)) or grid.trials,
        fixed={**grid.fixed, **_named(every)},
        sets={**grid.sets, **_named(lists)},
    )


def _pair(entry: Any) -> Pair:
    flags = dict(entry) if isinstance(entry, Mapping) else {"pair": entry}
    text = str(flags.pop("pair", ""))
    teacher, arrow, student = (part.strip() for part in text.partition("->"))
    if not (teacher and arrow and student):
        raise InputError(f"the pair {entry} must read TEACHER -> STUDENT.")
    return Pair(teacher, student, _flags(flags, f"the pair {text}"))


def _method(entry: Any) -> Method:
    if isinstance(entry, str):
        flag = "loss" if ":" in entry else "distill"
        return Method(entry, {} if entry == ALONE else {flag: entry})
    if not isinstance(entry, Mapping):
        raise InputError(f"the method {entry} must be a name, or a mapping with `distill`.")
    flags = dict(entry)
    named = {flag: str(flags.pop(flag)) for flag in ("distill", "loss") if flag in flags}
    if not named:
        raise InputError(f"the method {dict(entry)} names neither `distill` nor `loss`.")
    given, pairs = flags.pop("name", None), [_pair(pair) for pair in _some(flags, "pairs")]
    flags.pop("pairs", None)
    name = str(given or "+".join(named.values()))
    rest = _flags(flags, f"the method {name}")
    if named.get("distill") == ALONE:
        del named["distill"]
    name = name if given else name + shown(rest)
    return Method(name, {**named, **rest}, tuple((each.teacher, each.student) for each in pairs))


def _trial(entry: Any) -> int:
    if isinstance(entry, bool) or not isinstance(entry, int):
        raise InputError(f"the trial {entry} must be a whole number.")
    return entry


def _teachers(content: Any) -> dict[str, Teacher]:
    if not isinstance(content, Mapping):
        raise InputError("`teachers` must map names to checkpoints or to flags.")
    return {str(name): _teacher(str(name), value) for name, value in content.items()}


def _teacher(name: str, entry: Any) -> Teacher:
    if isinstance(entry, str):
        return Teacher(path=entry)
    if not isinstance(entry, Mapping):
        raise InputError(f"the teacher {name} must be a path or a mapping of flags.")
    flags = dict(entry)
    model, trial = str(flags.pop("model", name)), _trial(flags.pop("trial", 0))
    return Teacher("", model, trial, _flags(flags, f"the teacher {name}", TEACHER_FLAGS))


def _flags(
    flags: Mapping[str, Any], place: str, known: Iterable[str] = STUDENT_FLAGS
) -> dict[str, Any]:
    return _named({name: _checked(name, value, place, known) for name, value in flags.items()})


def _named(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags with underscores for hyphens, those without a value left out."""
    return {str(name).replace("-", "_"): v for name, v in flags.items() if v is not None}


def _checked(name: Any, value: Any, place: str, known: Iterable[str] = STUDENT_FLAGS) -> Any:
    flag = str(name).replace("-", "_")
    if flag in NOT_IN_GRID:
        raise InputError(f"{place} gives {flag}; {NOT_IN_GRID[flag]}.")
    if flag not in known:
        raise unknown(f"flag (in {place} of the grid)", flag, set(known) - NOT_IN_GRID.keys())
    if isinstance(value, Mapping):
        raise InputError(f"{place} gives {flag} a mapping; it must be a value.")
    return value


def _values(name: Any, value: Any) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    for each in values:
        _checked(name, each, "set")
    if not values:
        raise InputError(f"set gives {name} no values.")
    return values


def _some(content: Mapping[str, Any], name: str) -> list[Any]:
    """The list of that name; an empty one only where it is left out."""
    value = content.get(name, [])
    if not isinstance(value, list) or (name in content and not value):
        raise InputError(f"`{name}` of the grid must be a list of one or more.")
    return value


def _mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, Mapping):
        raise InputError(f"`{name}` of the grid must map flags to values.")
    return value

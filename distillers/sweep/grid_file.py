"""Read grids from files and flags; imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from distillers.config.flags import NotInGrid, marked
from distillers.config.student import StudentConfig
from distillers.config.teacher import TeacherConfig
from distillers.config.train import SEED
from distillers.config.yaml_text import read_yaml
from distillers.errors import InputError, shorten, unknown
from distillers.sweep.grid import WITHOUT_TEACHER, Grid, Method, Pair, Teacher, format_flags

TEACHER_FLAGS = frozenset(f.name for f in fields(TeacherConfig)) - {"model", "trial"}
STUDENT_FLAGS = frozenset(f.name for f in fields(StudentConfig)) - {"trial"}
FORBIDDEN_FLAGS = {
    name: marker.reason
    for config in (TeacherConfig, StudentConfig)
    for name, marker in marked(config, NotInGrid)
}


def read_grid(path: str) -> Grid:
    """Read a grid from a YAML or JSON file.

    Raises:
        InputError: if it cannot be read, or naming the entry that is wrong.
    """
    return build_grid(read_yaml(path, f"the grid {path}"), path)


def build_grid(content: object, source: str) -> Grid:
    """Build a grid from the content of a file; `source` is its name in messages."""
    if not isinstance(content, dict):
        raise InputError(f"the grid {source} must be a mapping with pairs, methods, trials, ...")
    allowed = {"set" if f.name == "sets" else f.name for f in fields(Grid)} - {"trusted"}
    for name in content:
        if name not in allowed:
            raise unknown(f"entry of a grid ({source})", str(name), allowed)
    content = {name: value for name, value in content.items() if value is not None}
    entries = _get_mapping(content, "teachers")
    teachers = {str(name): _parse_teacher(str(name), entry) for name, entry in entries.items()}
    save_dir = content.get("save_dir", Grid.save_dir)
    if not isinstance(save_dir, str):
        raise InputError(f"`save_dir` of the grid is {shorten(save_dir)}; it must be a path.")
    grid = Grid(save_dir, teachers=teachers, trusted=frozenset())
    grid = update_grid(
        grid,
        pairs=_get_list(content, "pairs"),
        methods=_get_list(content, "methods"),
        trials=_get_list(content, "trials"),
        fixed=_get_mapping(content, "fixed"),
        sets=_get_mapping(content, "set"),
    )
    known = [(pair.teacher, pair.student) for pair in grid.pairs]
    for method in grid.methods:
        for pair in method.pairs:
            if pair not in known:
                names = map(" -> ".join, known)
                raise unknown(f"pair (for {method.label})", " -> ".join(pair), names)
    return grid


def update_grid(
    grid: Grid,
    *,
    pairs: Sequence[Any] = (),
    methods: Sequence[Any] = (),
    trials: Sequence[Any] = (),
    fixed: Mapping[str, Any] | None = None,
    sets: Mapping[str, Any] | None = None,
) -> Grid:
    """Return the grid with other pairs, methods and trials if given, and with more flags.

    Args:
        grid: the grid.
        pairs: "TEACHER -> STUDENT", or mappings with "pair" and flags.
        methods: "crd+kd", "package.module:Loss", "alone", or mappings of flags, with "pairs"
            for a method of some pairs only.
        trials: integers.
        fixed: flags of every run.
        sets: lists of values by flag.

    Raises:
        InputError: naming the entry that is wrong.
    """
    for name, value in (fixed or {}).items():
        _check_flag(name, value, "fixed")
    lists = {name: _parse_values(name, value) for name, value in (sets or {}).items()}
    return replace(
        grid,
        pairs=tuple(map(_parse_pair, pairs)) or grid.pairs,
        methods=tuple(map(_parse_method, methods)) or grid.methods,
        trials=tuple(map(_parse_trial, trials)) or grid.trials,
        fixed={**grid.fixed, **_normalize_names(fixed or {})},
        sets={**grid.sets, **_normalize_names(lists)},
    )


def _parse_pair(entry: Any) -> Pair:
    flags = dict(entry) if isinstance(entry, Mapping) else {"pair": entry}
    text = str(flags.pop("pair", ""))
    teacher, arrow, student = (part.strip() for part in text.partition("->"))
    if not (teacher and arrow and student):
        raise InputError(f"the pair {shorten(entry)} must read TEACHER -> STUDENT.")
    return Pair(teacher, student, _parse_flags(flags, f"the pair {text}"))


def _parse_method(entry: Any) -> Method:
    if isinstance(entry, str):
        flag = "loss" if ":" in entry else "distill"
        return Method(entry, {} if entry == WITHOUT_TEACHER else {flag: entry})
    if not isinstance(entry, Mapping):
        raise InputError(
            f"the method {shorten(entry)} must be a name, or a mapping with `distill`."
        )
    flags = dict(entry)
    losses = {flag: str(flags.pop(flag)) for flag in ("distill", "loss") if flag in flags}
    if not losses:
        raise InputError(f"the method {shorten(entry)} names neither `distill` nor `loss`.")
    pairs = [_parse_pair(pair) for pair in _get_list(flags, "pairs")]
    given = flags.pop("name", None)
    flags.pop("pairs", None)
    label = str(given or "+".join(losses.values()))
    flags = _parse_flags(flags, f"the method {label}")
    if not given:
        label += format_flags(flags)
    if losses.get("distill") == WITHOUT_TEACHER:
        del losses["distill"]
    return Method(label, {**losses, **flags}, tuple((p.teacher, p.student) for p in pairs))


def _parse_trial(entry: Any) -> int:
    if isinstance(entry, bool) or not isinstance(entry, int):
        raise InputError(f"the trial {shorten(entry)} must be an integer.")
    if not SEED.contains(entry):
        raise InputError(f"the trial {shorten(entry)} must be {SEED.allowed}.")
    return entry


def _parse_teacher(name: str, entry: Any) -> Teacher:
    if isinstance(entry, str):
        return Teacher(path=entry)
    if not isinstance(entry, Mapping):
        raise InputError(f"the teacher {name} must be a path or a mapping of flags.")
    flags = dict(entry)
    model, trial = str(flags.pop("model", name)), _parse_trial(flags.pop("trial", 0))
    return Teacher("", model, trial, _parse_flags(flags, f"the teacher {name}", TEACHER_FLAGS))


def _parse_flags(
    flags: Mapping[str, Any], where: str, known: Iterable[str] = STUDENT_FLAGS
) -> dict[str, Any]:
    for name, value in flags.items():
        _check_flag(name, value, where, known)
    return _normalize_names(flags)


def _parse_values(name: Any, value: Any) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    for each in values:
        _check_flag(name, each, "set")
    if not values:
        raise InputError(f"set gives {name} no values.")
    return values


def _check_flag(name: Any, value: Any, where: str, known: Iterable[str] = STUDENT_FLAGS) -> None:
    flag = _normalize_name(name)
    if flag in FORBIDDEN_FLAGS:
        raise InputError(f"{where} gives {flag}; {FORBIDDEN_FLAGS[flag]}.")
    if flag not in known:
        raise unknown(f"flag (in {where} of the grid)", flag, set(known) - FORBIDDEN_FLAGS.keys())
    if isinstance(value, Mapping):
        raise InputError(f"{where} gives {flag} a mapping; it must be a value.")


def _normalize_names(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags with underscores in their names; None leaves out a flag of `fixed`."""
    return {_normalize_name(name): value for name, value in flags.items()}


def _normalize_name(name: Any) -> str:
    return str(name).replace("-", "_")


def _get_list(content: Mapping[str, Any], name: str) -> list[Any]:
    value = content.get(name, [])
    if not isinstance(value, list) or (name in content and not value):
        raise InputError(f"`{name}` of the grid must be a list of one or more.")
    return value


def _get_mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, Mapping):
        raise InputError(f"`{name}` of the grid must be a mapping.")
    return value

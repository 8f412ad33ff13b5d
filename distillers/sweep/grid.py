"""The grid of a sweep: which teachers, students, methods, trials and flags; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distillers.errors import InputError

ALONE = "alone"  # the method without a teacher
FILES = (".pth", ".pt", ".safetensors")  # of teachers that are trained already


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher: a name in `Grid.teachers`, a network that is trained first, or a checkpoint.
        student: a network.
        flags: of their runs.
    """

    teacher: str
    student: str
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.teacher} -> {self.student}{shown(self.flags)}"


@dataclass(frozen=True)
class Method:
    """What is distilled with.

    Attributes:
        name: as it is shown.
        flags: of its runs; neither "distill" nor "loss" is training without a teacher.
        pairs: the (teacher, student) that it is for; none stands for all.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()

    def suits(self, pair: Pair) -> bool:
        """Whether it is for a pair."""
        return not self.pairs or (pair.teacher, pair.student) in self.pairs


@dataclass(frozen=True)
class Teacher:
    """A teacher that is there, or is trained first.

    Attributes:
        path: its checkpoint; empty where it is trained.
        model: its network.
        trial: the seed of its training.
        flags: more for train_teacher.py.
    """

    path: str = ""
    model: str = ""
    trial: int = 0
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Everything that a sweep runs through.

    Attributes:
        save_dir: where all runs are saved.
        fixed: flags of every run, the teachers' too where train_teacher.py has them.
        teachers: by name; a teacher that is not among them is a network or a checkpoint.
        pairs: teachers and students.
        methods: what is distilled with; `ALONE` is training without a teacher.
        trials: the seeds.
        sets: flags of the students' runs with the values that each takes in turn.
    """

    save_dir: str = "./save"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    methods: tuple[Method, ...] = (Method("kd", {"distill": "kd"}),)
    trials: tuple[int, ...] = (1,)
    sets: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a grid without runs, and a flag that two of its axes give.

        Raises:
            InputError: naming what is missing or given twice.
        """
        for axis in ("pairs", "methods", "trials"):
            if not getattr(self, axis):
                example = {"pairs": "'resnet20 -> resnet8'", "methods": "kd", "trials": "1 2 3"}
                raise InputError(f"the grid has no {axis}; give some, as in {example[axis]}.")
        for kind, parts in (("pair", self.pairs), ("method", self.methods)):
            for part in parts:
                _refuse_both(f"the {kind} {part.name}", part.flags, "set", self.sets)
        for pair in self.pairs:
            for method in self.methods:
                _refuse_both(f"the pair {pair.name}", pair.flags, method.name, method.flags)


def teacher_of(grid: Grid, pair: Pair) -> Teacher:
    """What stands for a pair's teacher: an entry of `teachers`, a checkpoint, or a network."""
    name = pair.teacher
    if name in grid.teachers:
        return grid.teachers[name]
    is_file = ":" not in name and ("/" in name or name.endswith(FILES))
    return Teacher(path=name) if is_file else Teacher(model=name)


def shown(flags: Mapping[str, Any]) -> str:
    """Flags behind a name."""
    return f" ({', '.join(f'{name} {value}' for name, value in flags.items())})" if flags else ""


def _refuse_both(
    place: str, flags: Mapping[str, Any], other: str, others: Mapping[str, Any]
) -> None:
    both = sorted(flags.keys() & others.keys())
    if both:
        raise InputError(f"{both[0]} is given by {place} and by {other}; keep one of them.")

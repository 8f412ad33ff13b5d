"""The grid of a sweep; imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillers.config.flags import flag_words
from distillers.config.trust import NAME_FLAGS, check_trusted, own_code, own_code_of_teacher
from distillers.errors import InputError, shorten

MAX_POINTS = 10_000  # combinations of a grid
WITHOUT_TEACHER = "alone"  # the method that trains the student without a teacher


@dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher: a name in `Grid.teachers`, a network to be trained first, or a checkpoint.
        student: a network.
        flags: flags of the pair's runs.
    """

    teacher: str
    student: str
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The pair with its flags, for messages."""
        return f"{self.teacher} -> {self.student}{format_flags(self.flags)}"


@dataclass(frozen=True)
class Method:
    """A combination of losses.

    Attributes:
        label: name for messages.
        flags: flags of its runs; without "distill" and "loss" there is no teacher.
        pairs: the (teacher, student) that it is run on; all if empty.
    """

    label: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()

    def applies_to(self, pair: Pair) -> bool:
        """Return whether it is run on a pair."""
        return not self.pairs or (pair.teacher, pair.student) in self.pairs


@dataclass(frozen=True)
class Teacher:
    """A teacher that exists, or is trained first.

    Attributes:
        path: its checkpoint; empty if it is trained.
        model: its network.
        trial: seed of its training.
        flags: more flags of train_teacher.py.
    """

    path: str = ""
    model: str = ""
    trial: int = 0
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """The combinations that a sweep runs.

    Attributes:
        save_dir: folder of all runs.
        fixed: flags of every run; those that train_teacher.py has apply to teachers too.
        teachers: teachers by name; other names are networks or checkpoints.
        pairs: teachers and students.
        methods: combinations of losses.
        trials: seeds.
        sets: values to sweep for flags of the students' runs.
        trusted: names and modules that may be imported; None for all.
    """

    save_dir: str = "./save"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    methods: tuple[Method, ...] = (Method("kd", {"distill": "kd"}),)
    trials: tuple[int, ...] = (1,)
    sets: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    trusted: frozenset[str] | None = None

    def named_code(self) -> set[str]:
        """Return the names of code outside of distillers that its runs import."""
        teachers = self.teachers.values()
        flags = [self.fixed, *(each.flags for each in (*self.pairs, *self.methods, *teachers))]
        flags += [{name: value} for name, values in self.sets.items() for value in values]
        names = [word for name in NAME_FLAGS for word in _words_of(name, flags)]
        names += [pair.student for pair in self.pairs]
        names += [teacher.model for teacher in teachers]
        paths = [*_words_of("also_t", flags), *(teacher.path for teacher in teachers)]
        paths += {pair.teacher for pair in self.pairs} - self.teachers.keys()
        return {*own_code(*names), *(name for path in paths for name in own_code_of_teacher(path))}

    def check(self) -> None:
        """Check that the grid has runs, not too many, and that no two axes set the same flag.

        Raises:
            InputError: naming what is missing or set twice, or what is not trusted.
        """
        if self.trusted is not None:
            check_trusted(self.named_code(), self.trusted, "the grid")
        examples = {"pairs": "'resnet20 -> resnet8'", "methods": "kd", "trials": "1 2 3"}
        for axis, example in examples.items():
            if not getattr(self, axis):
                raise InputError(f"the grid has no {axis}; give some, as in {example}.")
        axes = self.trials, self.pairs, self.methods, *self.sets.values()
        num_points = math.prod(map(len, axes))
        if num_points > MAX_POINTS:
            raise InputError(
                f"the grid has {num_points:,} combinations; a sweep takes at most {MAX_POINTS:,}. "
                "Divide it among several."
            )
        for pair in self.pairs:
            _check_disjoint(f"the pair {pair.label}", pair.flags, "set", self.sets)
            for method in self.methods:
                _check_disjoint(f"the pair {pair.label}", pair.flags, method.label, method.flags)
        for method in self.methods:
            _check_disjoint(f"the method {method.label}", method.flags, "set", self.sets)


def format_flags(flags: Mapping[str, Any]) -> str:
    """Return flags in parentheses, to follow a name."""
    return f" ({', '.join(f'{n} {shorten(v)}' for n, v in flags.items())})" if flags else ""


def _words_of(name: str, flags: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the values of a flag as the words of command lines."""
    return [word for each in flags for word in flag_words(name, each.get(name))[1:]]


def _check_disjoint(
    first: str, flags: Mapping[str, Any], second: str, others: Mapping[str, Any]
) -> None:
    for name in sorted(flags.keys() & others.keys()):
        raise InputError(f"{name} is given by {first} and by {second}; keep one of them.")

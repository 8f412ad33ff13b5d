"""Check that losses read only what the networks have, and find losses that do."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from distillers.errors import InputError
from distillers.features.backbone import has_logits
from distillers.features.classifier import has_class_maps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring

NEEDS_STUDENT = {"student_logits", "student_class_maps", "targets", "num_classes"}
NEEDS_TEACHER = {"teacher_logits", "teacher_class_maps", "teacher_head"}


class Traced(NamedTuple):
    """A network that was run once, and where it is read."""

    trace: ForwardTrace
    taps: Taps


def check_logits(classes: Mapping[str, type[nn.Module]], *, student: bool, teacher: bool) -> None:
    """Check that no loss reads logits of a student or teacher that has none.

    Raises:
        InputError: naming the first such loss, what it reads, and the losses that would do.
    """
    lacking = (set() if student else NEEDS_STUDENT) | (set() if teacher else NEEDS_TEACHER)
    for name, loss in classes.items():
        found = _missing(loss, lacking)
        if not found:
            continue
        who = "teacher" if found[0].removesuffix(wiring.STRONG) in NEEDS_TEACHER else "student"
        others = [each for each, cls in wiring.losses().items() if not _missing(cls, lacking)]
        leave = {"kd": " (-d 0 leaves it out)", "ce": " (-c 0 leaves it out)"}.get(name.lower(), "")
        raise InputError(
            f"the loss {name} needs {', '.join(found)}, but the {who} has no classifier{leave}; "
            f"these need none: {', '.join(sorted(others))}."
            + (" Or give the teacher one with --teacher_head fit." if who == "teacher" else "")
        )


def _missing(loss: type[nn.Module], lacking: set[str]) -> list[str]:
    """Return what a loss reads, on any view, of what is lacking."""
    return sorted(
        name for name in wiring.reads(loss) if name.removesuffix(wiring.STRONG) in lacking
    )


def check_readable(
    classes: Mapping[str, type[nn.Module]], student: Traced, teachers: Sequence[Traced]
) -> None:
    """Check that the networks have all that losses read.

    Raises:
        InputError: naming the first loss and the network that lacks what it reads.
    """
    for teacher in teachers:
        check_logits(
            classes, student=has_logits(student.trace.net), teacher=has_logits(teacher.trace.net)
        )
        for loss in classes.values():
            for name in wiring.inputs(loss):
                _check_feature(loss.__name__, name, {"student": student, "teacher": teacher})


def _check_feature(loss: str, name: str, networks: Mapping[str, Traced]) -> None:
    """Check that a network shows the feature `name`, as "student_maps", which a loss reads."""
    side, _, kind = name.removesuffix(wiring.STRONG).partition("_")
    if side not in networks or kind == "logits":
        return
    trace, taps = networks[side]
    lacking = f"which the {side} {type(trace.inner[1]).__name__} does not have"
    if kind == "class_maps" and not has_class_maps(trace, taps):
        raise InputError(
            f"{loss} reads {side}_class_maps, {lacking}: they need one linear classifier behind an "
            "average pooling of the last map, which must be the output of a module."
        )
    if kind == "tokens" and not taps.tokens:
        raise InputError(
            f"{loss} reads {side}_tokens, {lacking}: they need transformer blocks whose outputs "
            "are tokens (n, t, d). Name others, as in "
            f"{side}_taps=Taps(maps=(...), head=..., tokens=(...))."
        )
    if not taps.places(kind):
        named = "maps=(...), head=..." + ("" if kind in ("maps", "pooled") else f", {kind}=...")
        why = ": no layer takes it" if kind == "pooled" else ""
        flag = f", or --taps_{side[0]} PATH,PATH" if kind == "maps" else ""
        raise InputError(
            f"{loss} reads {name}, but the {side} has none{why}; name the modules, as in "
            f"{side}_taps=Taps({named}){flag}."
        )

"""Check that losses read only what the networks have, and find losses that do."""

from collections.abc import Mapping

from torch import nn

from distillers.errors import InputError
from distillers.features.classifier import has_class_maps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import wiring

NEEDS_STUDENT = {"student_logits", "student_class_maps", "targets", "num_classes"}
NEEDS_TEACHER = {"teacher_logits", "teacher_class_maps", "teacher_head"}


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


def reads(loss: type[nn.Module]) -> set[str]:
    """Return the names of all that a loss reads and of the facts that it requires."""
    return {*wiring.inputs(loss), *wiring.constructor_facts(loss)}


def _missing(loss: type[nn.Module], lacking: set[str]) -> list[str]:
    """Return what a loss reads, on any view, of what is lacking."""
    return sorted(name for name in reads(loss) if name.removesuffix(wiring.STRONG) in lacking)


def check_kinds(loss: type[nn.Module], **networks: tuple[ForwardTrace, Taps]) -> None:
    """Check that both networks show the class maps and tokens that a loss reads.

    Args:
        loss: the class.
        networks: trace and taps of "student" and "teacher".

    Raises:
        InputError: naming the first network that does not.
    """
    read = {name.removesuffix(wiring.STRONG) for name in wiring.inputs(loss)}
    for side, (trace, taps) in networks.items():
        name = type(trace.inner[1]).__name__
        if f"{side}_class_maps" in read and not has_class_maps(trace, taps):
            raise InputError(
                f"{loss.__name__} reads {side}_class_maps, which the {side} {name} does not have: "
                "they need one linear classifier behind an average pooling of the last map, which "
                "must be the output of a module."
            )
        if f"{side}_tokens" in read and not taps.tokens:
            raise InputError(
                f"{loss.__name__} reads {side}_tokens, which the {side} {name} does not have: they "
                "need transformer blocks whose outputs are tokens (n, t, d). Name others, as in "
                f"{side}_taps=Taps(maps=(...), head=..., tokens=(...))."
            )

"""Check that losses read logits only of networks that have them, and find losses that do not."""

from collections.abc import Mapping

from torch import nn

from distillers.errors import InputError
from distillers.losses import wiring

NEEDS_STUDENT = {"student_logits", "targets", "num_classes"}
NEEDS_TEACHER = {"teacher_logits", "teacher_head"}


def check_logits(classes: Mapping[str, type[nn.Module]], *, student: bool, teacher: bool) -> None:
    """Check that no loss reads logits of a network that has none.

    Args:
        classes: the losses by name.
        student: whether the student has logits.
        teacher: whether the teacher has logits.

    Raises:
        InputError: naming the first such loss, what it reads, and the losses that would do.
    """
    lacking = (set() if student else NEEDS_STUDENT) | (set() if teacher else NEEDS_TEACHER)
    for name, loss in classes.items():
        found = sorted(reads(loss) & lacking)
        if not found:
            continue
        who = "teacher" if found[0] in NEEDS_TEACHER else "student"
        others = [each for each, cls in wiring.losses().items() if not reads(cls) & lacking]
        leave = {"kd": " (-d 0 leaves it out)", "ce": " (-c 0 leaves it out)"}.get(name.lower(), "")
        raise InputError(
            f"the loss {name} needs {', '.join(found)}, but the {who} has no classifier{leave}; "
            f"these need none: {', '.join(sorted(others))}."
            + (" Or give the teacher one with --teacher_head fit." if who == "teacher" else "")
        )


def reads(loss: type[nn.Module]) -> set[str]:
    """Return the names of all that a loss reads and of the facts that it requires."""
    functions = [getattr(loss, each) for each in ("forward", "warmup") if hasattr(loss, each)]
    inputs = {name for function in functions for name in wiring.forward_inputs(function)}
    return inputs | set(wiring.constructor_facts(loss))

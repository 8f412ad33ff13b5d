"""Find losses by name, and build and wire them by the names of their parameters.

The parameters of `forward` are read from the networks and the batch, the required parameters of
`__init__` are facts about networks and data, and its parameters with defaults are options, unless
they are called as facts.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from torch import nn

from distillers.errors import InputError, unknown
from distillers.features.taps import ALL_KINDS

# Parameters of `forward` and `warmup`: read from a network, the batch or the loop.
FROM_STUDENT = {f"student_{kind}": kind for kind in ALL_KINDS}
FROM_TEACHER = {f"teacher_{kind}": kind for kind in ALL_KINDS}
# The same of a second, strongly augmented view of the images, as in "student_logits_strong".
STRONG = "_strong"
FROM_STUDENT_STRONG = {f"{name}{STRONG}": kind for name, kind in FROM_STUDENT.items()}
FROM_TEACHER_STRONG = {f"{name}{STRONG}": kind for name, kind in FROM_TEACHER.items()}
FROM_LOOP = ("labels", "targets", "index", "progress")
FROM_LABELS = ("labels", "targets")
# A loss that reads nothing else is also taken on the second view, where there is one.
ON_EVERY_VIEW = ("student_logits", "labels", "targets")
# Given to a `forward` that names them, although they have defaults, for use without this library.
OPTIONAL = ("rows_per_rank", "progress")

# Required parameters of `__init__`.
FACTS = (
    *("student_dim", "teacher_dim", "student_channels", "teacher_channels"),
    *("student_sizes", "teacher_sizes", "teacher_head", "train_labels"),
    *("num_classes", "batch_size"),
)


# What a loss needs, by the names of its parameters without "student_" or "teacher_".
NEEDS = {
    "labels": FROM_LABELS,
    "classifier": ("logits", "head", "class_maps", "num_classes"),
    "embeddings": ("pooled",),
    "maps": ("maps", "final", "preacts", "stem"),
    "class maps": ("class_maps",),
    "tokens": ("tokens",),
}

WITHOUT_HEAD = "The teacher has no single layer that maps its embedding to its logits."


def losses() -> dict[str, type[nn.Module]]:
    """Return the losses of the library by their lower-cased class names."""
    from distillers import losses as namespace

    return {
        name.lower(): value
        for name, value in vars(namespace).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }


def find(name: str) -> type[nn.Module]:
    """Return the loss class with a name, or at "package.module:Class".

    Raises:
        InputError: if there is none; the message suggests the nearest name.
    """
    if ":" not in name:
        known = losses()
        if name.lower() not in known:
            raise unknown("loss", name, known)
        return known[name.lower()]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"cannot import the loss {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"{name!r} is not a subclass of torch.nn.Module.")
    return found


def forward_inputs(function: Callable) -> tuple[str, ...]:
    """Return the parameters of a `forward` or `warmup` that are wired, those without a default.

    Raises:
        InputError: if a name is unknown; the message suggests the nearest.
    """
    known = (*FROM_STUDENT, *FROM_TEACHER, *FROM_LOOP, *FROM_STUDENT_STRONG, *FROM_TEACHER_STRONG)
    return tuple(_required(function, known))


def inputs(loss: type[nn.Module] | nn.Module) -> list[str]:
    """Return the parameters of the `forward` of a loss, and of its `warmup`, that are wired."""
    functions = [getattr(loss, name) for name in ("forward", "warmup") if hasattr(loss, name)]
    return [name for function in functions for name in forward_inputs(function)]


def bound_inputs(function: Callable) -> tuple[str, ...]:
    """Return all parameters of a `forward` or `warmup` that are wired, optional ones too."""
    parameters = inspect.signature(function).parameters
    required = forward_inputs(function)
    optional = (name for name in OPTIONAL if name in parameters and name not in required)
    return (*required, *optional)


def constructor_facts(loss: type[nn.Module]) -> tuple[str, ...]:
    """Return the facts that the `__init__` of a loss requires.

    Raises:
        InputError: if a name is not a fact; the message suggests the nearest.
    """
    has_constructor = loss.__init__ is not nn.Module.__init__
    return tuple(_required(loss, FACTS)) if has_constructor else ()


def options(loss: type[nn.Module]) -> dict[str, Any]:
    """Return the options of a loss with their defaults."""
    return {name: default for name, default in _defaults(loss).items() if name not in FACTS}


def optional_facts(loss: type[nn.Module]) -> tuple[str, ...]:
    """Return the facts that the `__init__` of a loss takes if they are known."""
    return tuple(name for name in _defaults(loss) if name in FACTS)


def build(
    loss: type[nn.Module], facts: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
) -> nn.Module:
    """Construct a loss from facts and options.

    Args:
        loss: the class.
        facts: values by the names in `FACTS`; those that it does not require are ignored.
        chosen: options by name.

    Raises:
        InputError: if an option is unknown, a required fact is missing or None, or the loss raises
            a ValueError or TypeError.
    """
    defaults, chosen = options(loss), dict(chosen or {})
    for name in chosen:
        if name not in defaults:
            raise unknown(f"option of {loss.__name__}", name, defaults)
    missing = [name for name in constructor_facts(loss) if facts.get(name) is None]
    if missing:
        why = " " + WITHOUT_HEAD if "teacher_head" in missing else ""
        raise InputError(
            f"{loss.__name__} needs {', '.join(missing)}, which is not known here.{why}"
        )
    forward_inputs(loss.forward)
    taken = {name: facts[name] for name in constructor_facts(loss)}
    taken |= {name: facts[name] for name in optional_facts(loss) if facts.get(name) is not None}
    try:
        return loss(**taken, **chosen)
    except (ValueError, TypeError) as error:
        is_named = str(error).startswith(loss.__name__)
        raise InputError(str(error) if is_named else f"{loss.__name__}: {error}") from error


def needs_labels(loss: type[nn.Module] | nn.Module) -> bool:
    """Return whether `forward` or `warmup` of a loss reads the labels of the images."""
    return not set(FROM_LABELS).isdisjoint(inputs(loss))


def reads(loss: type[nn.Module]) -> set[str]:
    """Return the names of all that a loss reads and of the facts that it requires."""
    return {*inputs(loss), *constructor_facts(loss)}


def needs(loss: type[nn.Module]) -> list[str]:
    """Return what a loss needs, in words: those of `NEEDS`, "two views", "first stage"."""
    named = reads(loss)
    kinds = {
        name.removeprefix("student_").removeprefix("teacher_").removesuffix(STRONG)
        for name in named
    }
    found = [word for word, names in NEEDS.items() if kinds & set(names)]
    if any(name.endswith(STRONG) for name in named):
        found.append("two views")
    return [*found, "first stage"] if hasattr(loss, "warmup") else found


def check_has_labels(names: Iterable[str]) -> None:
    """Check that losses, by name, can be used without any label.

    Raises:
        InputError: naming a loss that reads labels.
    """
    needing = [name for name in names if needs_labels(find(name))]
    if needing:
        raise InputError(
            f"no training image has a label, but {' and '.join(needing)} "
            f"{'needs' if len(needing) == 1 else 'need'} labels; set the weight to 0 (--cls 0 for "
            "the cross-entropy) and use losses that read only the teacher, as kd, dist or rrd."
        )


def reads_strong(loss: type[nn.Module], side: str = "") -> bool:
    """Return whether a loss reads a second, strongly augmented view, of one `side` if given."""
    return any(name.startswith(side) and name.endswith(STRONG) for name in inputs(loss))


def check_mixing(names: Iterable[str]) -> None:
    """Check that losses, by name, can be used with mixed images, which have no hard labels.

    Raises:
        InputError: naming a loss that reads `labels`.
    """
    for name in names:
        loss = find(name)
        if "labels" in inputs(loss):
            raise InputError(
                f"{loss.__name__} reads hard labels, which images mixed by --mixup or --cutmix do "
                "not have; leave the mixing out, or use a loss that reads targets or no labels."
            )


def parse_option(loss: type[nn.Module], name: str, text: str) -> Any:
    """Parse the value of an option on the command line, with the type of its default.

    Raises:
        InputError: if the option is unknown or the text is not of the type.
    """
    defaults = options(loss)
    if name not in defaults:
        raise unknown(f"option of {loss.__name__}", name, defaults)
    default, value = defaults[name], _literal(text)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if default is not None and type(value) is not type(default):
        raise InputError(
            f"{loss.__name__}.{name} is {default!r} by default; {text!r} does not fit."
        )
    return value


def _literal(text: str) -> Any:
    """Parse a number as Python does, anything else as YAML."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return int(text, 0)  # as in 0x10
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if type(value) in (int, float) else value  # YAML's 1:30 is 90


def _defaults(loss: type[nn.Module]) -> dict[str, Any]:
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _required(function: Callable, known: tuple[str, ...]) -> list[str]:
    owner = getattr(function, "__qualname__", str(function))
    names = []
    for p in inspect.signature(function).parameters.values():
        if p.name == "self" or p.default is not inspect.Parameter.empty:
            continue
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise InputError(f"{owner} takes *{p.name}; name what it reads instead.")
        if p.name not in known:
            raise InputError(f"{owner} asks for " + str(unknown("value", p.name, known)))
        names.append(p.name)
    return names

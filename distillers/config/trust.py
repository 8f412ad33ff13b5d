"""Names of code outside of distillers, which only the user's own command line may have imported."""

from collections.abc import Iterable, Iterator

from distillers.config.teachers import KEEP, TeacherFlags, TeachersConfig, split_name
from distillers.errors import InputError, shorten

NAME_FLAGS = ("model", "model_s", "model_t", "loss", "distill")  # flags that may import their value
LIBRARIES = ("timm:", "torchvision:", "transformers:")


def own_code(*values: object) -> Iterator[str]:
    """Yield each name in values that imports code outside of distillers, timm and torchvision."""
    for value in values:
        names = map(str.strip, value.split("+")) if isinstance(value, str) else ()
        yield from (name for name in names if ":" in name and not name.startswith(LIBRARIES))


def own_code_of_teacher(text: str | None) -> Iterator[str]:
    """Yield the name of code outside of distillers that a value of --path_t imports, if it does."""
    if text is not None:
        path, model = split_name(text, None)
        is_named = TeacherFlags(path, model, KEEP, None).is_named
        yield from own_code(path if is_named else model)


def own_code_of(config: object) -> set[str]:
    """Return the names of code outside of distillers in the flags of a command."""
    found = set(own_code(*(getattr(config, flag, None) for flag in NAME_FLAGS)))
    if isinstance(config, TeachersConfig):
        for text in (config.path_t, *config.also_t):
            found.update(own_code_of_teacher(text))
    return found


def check_trusted(names: Iterable[str], trusted: Iterable[str], source: str) -> None:
    """Check that the user named the code that a file wants to be imported.

    Args:
        names: what the file names.
        trusted: names, modules and packages that the user named on the command line.
        source: the file, for messages.

    Raises:
        InputError: naming the first that is not trusted.
    """
    known = set(trusted)
    for name in sorted(names):
        module = name.partition(":")[0]
        parts = module.split(".")
        packages = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        if name not in known and not packages & known:
            raise InputError(
                f"{source} names {shorten(name)}, code outside of distillers, and a file must not "
                f"choose what is imported; if you trust it, add --trust {shorten(module)}."
            )

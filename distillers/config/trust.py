"""Names of code outside of distillers, which only the user's own command line may have imported."""

from collections.abc import Iterable, Iterator

from distillers.config.teachers import TeachersConfig
from distillers.errors import InputError, shorten

NAME_FLAGS = ("model", "model_s", "model_t", "loss", "distill")  # flags that may import their value
LIBRARIES = ("timm:", "torchvision:", "transformers:")


def own_code(*values: object) -> Iterator[str]:
    """Yield each name in values that imports code outside of distillers, timm and torchvision."""
    for value in values:
        names = map(str.strip, value.split("+")) if isinstance(value, str) else ()
        yield from (name for name in names if ":" in name and not name.startswith(LIBRARIES))


def own_code_of(config: object) -> set[str]:
    """Return the names of code outside of distillers in the flags of a command."""
    found = set(own_code(*(getattr(config, flag, None) for flag in NAME_FLAGS)))
    if isinstance(config, TeachersConfig):
        found |= set(own_code(*(one.path for one in config.teachers() if one.is_named)))
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

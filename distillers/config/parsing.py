"""Conversion of command lines to dataclasses and back."""

from collections.abc import Sequence
from typing import Any, TypeVar

from distillers.config.trust import check_trusted, own_code_of
from distillers.errors import InputError

Config = TypeVar("Config")


def parse(config: type[Config], args: Sequence[str], prog: str) -> Config:
    """Parse flags into a dataclass; they override those of `--config FILE`.

    Raises:
        InputError: if the file of `--config` cannot be read, or names code outside of distillers
            that is not trusted on the command line.
    """
    import tyro

    path = _config_file(args)
    if path is None:
        return tyro.cli(config, args=args, prog=prog)
    parsed = tyro.cli(config, args=[*_from_file(path), *args], prog=prog)
    if names := own_code_of(parsed):
        by_user: Any = tyro.cli(config, args=args, prog=prog)
        check_trusted(names, {*own_code_of(by_user), *by_user.trust}, f"--config {path}")
    return parsed


def _config_file(args: Sequence[str]) -> str | None:
    """Return the value of `--config FILE` or `--config=FILE`, the last if there are several."""
    path = None
    for number, word in enumerate(args):
        if word == "--config" and number + 1 < len(args):
            path = args[number + 1]
        elif word.startswith("--config="):
            path = word.partition("=")[2]
    return path


def _from_file(path: str) -> list[str]:
    """Return the flags in a file.

    Raises:
        InputError: if the file cannot be read, or is not a mapping of flags to values.
    """
    from distillers.config.run_files import KEY
    from distillers.config.yaml_text import read_yaml

    content = read_yaml(path, f"--config {path}")
    if not isinstance(content, dict):
        raise InputError(f"--config {path} must hold a mapping of flags to values.")
    content.pop(KEY, None)  # the checksum in a run's config.json, which people may edit
    return [word for name, value in content.items() for word in flag_words(str(name), value)]


def flag_words(name: str, value: object) -> list[str]:
    """Return a flag as words of a command line; no words if the value is None."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if value is None:
        return []
    if isinstance(value, list):
        if all(isinstance(part, list) for part in value):  # as a run's config.json has --option
            value = [each for part in value for each in part]
        separate = all(isinstance(each, str) for each in value)
        return [f"--{name}", *value] if separate else [f"--{name}", ",".join(map(str, value))]
    return [f"--{name}", str(value)]

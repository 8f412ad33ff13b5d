"""Conversion of command lines to dataclasses."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from distillers.config import recipes
from distillers.config.flags import flag_words
from distillers.config.teachers import collect_repeated
from distillers.config.train import TrainConfig
from distillers.config.trust import check_trusted, own_code_of
from distillers.errors import InputError, unknown

Config = TypeVar("Config")


def parse(config: type[Config], args: Sequence[str], prog: str) -> Config:
    """Parse flags into a dataclass.

    Those of `args` override those of `--config FILE`, and both override those of `--recipe`.

    Raises:
        InputError: if the file of `--config` cannot be read, or names code outside of distillers
            that is not trusted on the command line; or if the recipe cannot be used.
    """
    import tyro

    _set_help(config)
    args = collect_repeated(args) if hasattr(config, "also_t") else args
    path = _config_file(args)
    from_file = {} if path is None else _read_file(path, config)
    if "path_t" in _names(args):  # overrides all teachers of the file
        from_file.pop("also_t", None)
    words = [word for name, value in from_file.items() for word in flag_words(name, value)]
    words += args
    if any("\0" in word for word in words):
        raise InputError("a flag has a null character in its value, which no name of a file has.")
    parsed = tyro.cli(config, args=words, prog=prog)
    if path is not None and (names := own_code_of(parsed)):
        by_user: Any = tyro.cli(config, args=args, prog=prog)
        check_trusted(names, {*own_code_of(by_user), *by_user.trust}, f"--config {path}")
    if not isinstance(parsed, TrainConfig):
        return parsed
    unset = {name for name, value in from_file.items() if value is None}
    defaults = recipes.resolve(parsed, _names(words) | unset)
    if defaults is None:
        return parsed
    nothing = dict.fromkeys(unset & vars(defaults).keys())
    defaults = dataclasses.replace(defaults, **nothing)
    return tyro.cli(config, args=words, prog=prog, default=defaults)


@cache
def _set_help(config: Any) -> None:
    """Set the help of every flag to its docstring as one line; tyro would keep the line breaks."""
    from docstring_parser import parse_from_object

    texts: dict[str, str | None] = {}
    for base in filter(dataclasses.is_dataclass, reversed(config.__mro__)):
        texts |= {each.arg_name: each.description for each in parse_from_object(base).params}
    for field in dataclasses.fields(config):
        text = " ".join((texts.get(field.name) or "").split())
        field.metadata = MappingProxyType({**field.metadata, "help": text})


def _names(words: Sequence[str]) -> set[str]:
    """Return the names of the flags in a command line."""
    flags = (word[2:].partition("=")[0] for word in words if word.startswith("--"))
    return {flag.replace("-", "_").removeprefix("no_") for flag in flags}


def _config_file(args: Sequence[str]) -> str | None:
    """Return the value of `--config FILE` or `--config=FILE`, the last if there are several."""
    path = None
    for number, word in enumerate(args):
        if word == "--config" and number + 1 < len(args):
            path = args[number + 1]
        elif word.startswith("--config="):
            path = word.partition("=")[2]
    return path


def _read_file(path: str, config: Any) -> dict[str, Any]:
    """Return the flags in a file, by name with underscores."""
    from distillers.config.run_files import KEY
    from distillers.config.yaml_text import read_yaml

    content = read_yaml(path, f"--config {path}")
    if not isinstance(content, dict):
        raise InputError(f"--config {path} must hold a mapping of flags to values.")
    content.pop(KEY, None)  # the checksum in a run's config.json, which people may edit
    flags = {str(name).replace("-", "_"): value for name, value in content.items()}
    known = {field.name for field in dataclasses.fields(config)}
    for name, value in flags.items():
        if value is None and name not in known:  # others are words of the command line
            raise unknown(f"flag in --config {path}", name, known)
    return flags

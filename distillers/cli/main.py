"""The command `distillers`: finds the subcommand and runs it; imports nothing heavy."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from distillers.errors import Diverged, InputError, Interrupted, Lost, unknown

COMMANDS = {
    "teacher": "train a network on labels alone (train_teacher.py)",
    "student": "distil a student from a trained teacher (train_student.py)",
    "transfer": "train a network's classifier, or all of it, on other data (transfer_student.py)",
    "evaluate": "score a saved network",
    "figures": "draw pictures that compare saved networks",
    "export": "write a saved network as safetensors, ONNX or a torch.export program",
    "report": "compare finished runs with one another and with published numbers",
    "list": "show methods, networks and data sets",
    "cache": "fill, look at, check and delete caches of what a teacher says",
    "bench": "measure what a step of each method costs for two networks on this device",
    "data": "unpack the archives of ImageNet or Tiny ImageNet",
    "sweep": "train every run of a grid of pairs, methods, trials and flags",
    "demo": "distil real handwritten digits in a few minutes, without a network or a GPU",
}
Config = TypeVar("Config")

STATUS: dict[type, int] = {InputError: 2, Diverged: 3, Lost: 4}
TRY_AGAIN = 75  # EX_TEMPFAIL: a scheduler that knows it starts the run again
PATIENCE = 3.0


def main(args: Sequence[str] | None = None) -> int:
    """Run `distillers COMMAND ...`; the exit status."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print("usage: distillers COMMAND [FLAGS]\n\nKnowledge distillation of image classifiers.\n")
        print("\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items()))
        print("\n`distillers COMMAND --help` tells the flags of a command.")
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from distillers import __version__

        print(f"distillers {__version__}")
        return 0
    return run(args[0], args[1:])


def run(command: str, args: Sequence[str]) -> int:
    """Run one subcommand; what the user gave wrong is told in a line, without a traceback.

    Returns:
        the exit status: see `docs/scale.md`.
    """
    try:
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        if os.getcwd() not in sys.path:
            sys.path.append(
                os.getcwd()
            )  # for --loss and --model_s that name a module of the user's
        importlib.import_module(f"distillers.cli.commands.{command}").main(args)
    except (InputError, Diverged, Lost) as error:
        _tell(error)
        return STATUS.get(type(error), 2)
    except Interrupted as error:
        _tell(error)
        return 130 if error.signal == signal.SIGINT else TRY_AGAIN
    except BrokenPipeError:  # the reader of a pipe, `| head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        _tell(error)
        return 2
    except KeyboardInterrupt as error:
        print(*(error.args or ("stopped.",)), file=sys.stderr)
        return 130
    return 0


def _tell(error: Exception) -> None:
    """Print an error; of several processes that have the same one, the first does."""
    rank = int(os.environ.get("RANK", "0"))
    if rank and isinstance(error, Interrupted):
        return  # all of them were
    if rank:
        time.sleep(PATIENCE)  # the launcher ends the others when the first is gone
    words = "" if isinstance(error, Interrupted) else "error: "
    who = f"process {rank}: " if rank else ""
    print(f"{words}{who}{error}", file=sys.stderr, flush=True)


def parse(config: type[Config], args: Sequence[str], prog: str) -> Config:
    """Read flags into a dataclass; those of `--config FILE` go before the others."""
    import tyro

    return tyro.cli(config, args=[*_from_file(args), *args], prog=prog)


def _from_file(args: Sequence[str]) -> list[str]:
    """The flags in the file that `--config FILE` or `--config=FILE` names."""
    path = None
    for number, word in enumerate(args):
        if word == "--config" and number + 1 < len(args):
            path = args[number + 1]
        elif word.startswith("--config="):
            path = word.partition("=")[2]
    if path is None:
        return []
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read --config {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} must hold a mapping of flags to values.")
    return [word for name, value in content.items() for word in flag_words(str(name), value)]


def flag_words(name: str, value: object) -> list[str]:
    """A flag as the words of a command line; none where there is no value."""
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


if __name__ == "__main__":
    sys.exit(main())

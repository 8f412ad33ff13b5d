"""The command `distillers`: finds the subcommand and runs it; imports nothing heavy."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from distillers.errors import (
    STATUS,
    TRY_AGAIN,
    InputError,
    NonFiniteLossError,
    PeerLostError,
    PreemptedError,
    unknown,
)

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
    except (InputError, NonFiniteLossError, PeerLostError) as error:
        _tell(error)
        return STATUS.get(type(error), 2)
    except PreemptedError as error:
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
    if rank and isinstance(error, PreemptedError):
        return  # all of them were
    if rank:
        time.sleep(PATIENCE)  # the launcher ends the others when the first is gone
    words = "" if isinstance(error, PreemptedError) else "error: "
    who = f"process {rank}: " if rank else ""
    print(f"{words}{who}{error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

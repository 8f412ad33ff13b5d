"""The command `distillers`: dispatches to its subcommands without importing torch."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from distillers.cli.process import TerminatedError, terminating_signals, with_guarded_output
from distillers.config.cpus import set_openmp_defaults
from distillers.errors import (
    EXIT_STATUS,
    PREEMPTED_STATUS,
    InputError,
    LimitExceededError,
    NonFiniteLossError,
    PeerLostError,
    PreemptedError,
    escape,
    shorten,
    unknown,
)
from distillers.files import DISK_FULL

COMMANDS = {
    "teacher": "train a network on labels alone (train_teacher.py)",
    "student": "distill a student from a trained teacher (train_student.py)",
    "transfer": "train a network's classifier, or all of it, on other data (transfer_student.py)",
    "evaluate": "evaluate a saved network on test images",
    "predict": "predict the classes of pictures without labels",
    "audit": "examine teachers: accuracy, calibration, labels that they doubt, agreement",
    "compare": "compare a network with the one that it would replace, within limits",
    "figures": "plot comparisons of saved networks",
    "export": "export a saved network as safetensors, ONNX, OpenVINO or a torch.export program",
    "report": "compare finished runs with each other and with published results",
    "list": "list methods, networks and data sets",
    "cache": "build, inspect, verify, prune and share caches of teacher outputs",
    "bench": "time a training step of each method for two networks on this device",
    "data": "extract the archives of ImageNet or Tiny ImageNet",
    "sweep": "train every run of a grid of pairs, methods, trials and flags",
    "compress": "find, train and export the best student within the limits of a device",
    "demo": "distill handwritten digits in about a minute, offline and without a GPU",
}

PATIENCE = 3.0  # seconds before ranks other than the first print an error


def main(args: Sequence[str] | None = None) -> int:
    """Run `distillers COMMAND ...` and return the exit status."""
    is_process = args is None
    args = list(sys.argv[1:] if args is None else args)
    if args and args[0] not in ("-h", "--help", "-V", "--version"):
        return run(args[0], args[1:], until_exit=is_process)
    return with_guarded_output(lambda: _print_usage(args))


def _print_usage(args: Sequence[str]) -> int:
    """Print the version or the commands, and return the exit status."""
    if args and args[0] in ("-V", "--version"):
        from distillers import __version__

        print(f"distillers {__version__}")
        return 0
    print("usage: distillers COMMAND [FLAGS]\n\nKnowledge distillation of image classifiers.\n")
    print("\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items()))
    print("\n`distillers COMMAND --help` lists the flags of a command.")
    return 0 if args else 2


def run(command: str, args: Sequence[str], *, until_exit: bool = False) -> int:
    """Run one subcommand and return its exit status; errors in its input are printed in one line.

    Returns:
        The exit status, see `docs/scale.md`.
    """
    set_openmp_defaults()  # before torch is imported
    with terminating_signals(until_exit) as stopping:
        return with_guarded_output(lambda: _run(command, args, stopping))


def _run(command: str, args: Sequence[str], stopping: list[int]) -> int:
    try:
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # --loss and --model_s may name a module of the user
        importlib.import_module(f"distillers.cli.commands.{command}").main(args)
    except (InputError, LimitExceededError, NonFiniteLossError, PeerLostError) as error:
        _print_error(error)
        return EXIT_STATUS.get(type(error), 2)
    except PreemptedError as error:
        stopping.append(error.signal)
        _print_error(error)
        return 130 if error.signal == signal.SIGINT else PREEMPTED_STATUS
    except OSError as error:
        if not _is_of_a_file(error):
            raise
        _print_error(_explain(error))
        return 2
    except UnicodeEncodeError as error:
        if not any("\udc80" <= character <= "\udcff" for character in error.object):
            raise
        where = shorten(ascii(error.object[max(0, error.start - 80) : error.end + 80]))
        _print_error(InputError(f"{where} is not UTF-8; rename it, or use another path."))
        return 2
    except KeyboardInterrupt as error:
        print(*(error.args or ("stopped.",)), file=sys.stderr)
        return 128 + error.signal if isinstance(error, TerminatedError) else 130
    return 0


def _is_of_a_file(error: OSError) -> bool:
    no_folder = "No usable temporary directory" in str(error)
    return error.filename is not None or error.errno in DISK_FULL or no_folder


def _explain(error: OSError) -> Exception:
    """Return an error about a file with its name first, and with advice if the disk is full."""
    where = f"{error.filename}: " if error.filename is not None else ""
    is_full = error.errno in DISK_FULL or error.filename is None
    advice = "; make room, and run the command again" if is_full else ""
    return InputError(f"{where}{error.strerror}{advice}.")


def _print_error(error: Exception) -> None:
    """Print an error; of processes with the same error only the first prints it."""
    rank = int(os.environ.get("RANK", "0"))
    if rank and isinstance(error, PreemptedError):
        return  # every process was preempted
    if rank:
        time.sleep(PATIENCE)  # the launcher ends the others when the first has ended
    prefix = "" if isinstance(error, PreemptedError) else "error: "
    process = f"process {rank}: " if rank and not isinstance(error, PeerLostError) else ""
    print(f"{prefix}{process}{escape(str(error))}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""`distillers sweep`: run a grid of trainings on all available devices."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import Positional, UseAppendAction, arg

from distillers.config.flags import AT_LEAST_1, ModulePaths, check_ranges
from distillers.config.parsing import parse
from distillers.config.yaml_text import parse_yaml
from distillers.errors import PREEMPTED_STATUS, STOP_SIGNALS, InputError
from distillers.sweep.grid import Grid
from distillers.sweep.grid_file import read_grid, update_grid

if TYPE_CHECKING:
    from distillers.sweep.executors import Executor
    from distillers.sweep.executors.local import Slots
    from distillers.sweep.expand import Run
    from distillers.sweep.ledger import Ledger


@dataclass(frozen=True)
class SweepConfig:
    """Train every teacher, then every student, of a grid of pairs, methods, trials and flags.

    The same command resumes an interrupted sweep: finished runs are not repeated, unfinished ones
    resume from their last checkpoint. See docs/sweep.md for the file format.
    """

    grid: Positional[str | None] = None
    """YAML or JSON file of the grid. Default: only --pairs, --methods and --trials."""
    pairs: tuple[str, ...] = ()
    """Teachers and students, as in --pairs 'resnet20 -> resnet8' 'wrn_40_2 -> vgg8'. Replaces those
    of the file."""
    methods: tuple[str, ...] = ()
    """Methods, as in --methods alone kd crd+kd. Replaces those of the file."""
    trials: tuple[int, ...] = ()
    """Seeds, as in --trials 1 2 3. Replaces those of the file."""
    fixed: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """Flags for all runs, as in --fixed dataset=digits epochs=3."""
    sets: Annotated[tuple[tuple[str, ...], ...], arg(name="set"), UseAppendAction] = ()
    """Values to sweep for flags of the students, as in --set learning_rate=0.05,0.1."""
    save_dir: str | None = None
    """Folder of the runs. Default: that of the file, else ./save."""
    trust: ModulePaths = ()
    """Modules of your own that the file may name for networks and losses, as in my_package.losses.
    What --pairs and --methods name is trusted."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """Run on this machine, on a Ray cluster, or as SLURM jobs."""
    jobs: Annotated[int | None, AT_LEAST_1] = None
    """Maximum number of concurrent runs. Default: as many as the GPUs, cores or cluster allow."""
    per_gpu: Annotated[int, AT_LEAST_1] = 1
    """Number of runs that share a GPU."""
    threads: Annotated[int | None, AT_LEAST_1] = None
    """CPU threads of each run. Default: the cores divided by the jobs; 1 without a GPU."""
    gpu_id: str | None = None
    """GPU indices, as in 0,2, or cpu. Default: all GPUs."""
    ray_address: str | None = None
    """Address of a running Ray cluster. Default: start one on this machine."""
    slurm: tuple[str, ...] = ()
    """Options of submitit, as in --slurm slurm_partition=gpu timeout_min=600 mem_gb=16."""

    dry_run: bool = False
    """Print the command of every run and an estimate of their cost; start nothing."""
    retry_failed: bool = False
    """Start runs again that have failed before."""

    def check(self) -> None:
        """Check the flags."""
        check_ranges(self)
        if self.grid is None and not self.pairs:
            raise InputError(
                "nothing to sweep: give a grid file, or --pairs 'resnet20 -> resnet8'."
            )

    def build_grid(self) -> Grid:
        """Return the grid of the file with the changes of the flags."""
        changed = partial(
            update_grid,
            pairs=self.pairs,
            methods=self.methods,
            trials=self.trials,
            fixed=_single_values(_parse_assignments("fixed", self.fixed)),
            sets=_parse_assignments("set", self.sets),
        )
        grid = by_user = changed(Grid())
        if self.grid:
            trusted = {*self.trust, *by_user.named_code()}
            grid = replace(changed(read_grid(self.grid)), trusted=frozenset(trusted))
        return replace(grid, save_dir=self.save_dir) if self.save_dir else grid


def main(args: Sequence[str]) -> None:
    """Run the grid; the exit status is 1 if a run has failed."""
    config = parse(SweepConfig, args, "distillers sweep")
    config.check()
    grid = config.build_grid()
    grid.check()

    from distillers.sweep.dry_run import check_networks, print_dry_run, source_opener
    from distillers.sweep.expand import expand
    from distillers.sweep.ledger import Ledger

    expanded, ledger = expand(grid), Ledger(grid.save_dir)
    if config.dry_run:
        is_local = config.engine == "local"
        slots = local_slots(config if is_local else replace(config, jobs=None, gpu_id=None))
        num_concurrent = config.jobs or len(slots.gpus)
        print_dry_run(expanded, ledger, slots, num_concurrent)
        return
    check_networks(expanded.runs, source_opener())
    execute(config, expanded.runs, ledger, grid.save_dir)


def execute(config: SweepConfig, runs: Sequence["Run"], ledger: "Ledger", save_dir: str) -> None:
    """Execute runs and print those that failed."""
    from distillers.sweep.display import Display, format_failures
    from distillers.sweep.driver import RunState, Sweep

    executor = build_executor(config, save_dir)
    ledger.create()
    if config.retry_failed:
        for run in runs:
            ledger.clear_failure(run.folder)
    sweep, display = Sweep(runs, ledger, executor), Display()
    try:
        with _stop_on_signals():
            sweep.run(display.update)
    except _Stopped as stopped:
        display.close(sweep)
        name = signal.Signals(stopped.signal).name
        print(f"stopped by {name}; the same command resumes.", file=sys.stderr)
        sys.exit(130 if stopped.signal == signal.SIGINT else PREEMPTED_STATUS)
    display.close(sweep)
    if len(sweep.in_state(RunState.DONE)) < len(runs):
        print("\n".join(format_failures(sweep)), flush=True)
        sys.exit(1)
    print(f"all done; `distillers report {save_dir}` compares them.")


def build_executor(config: SweepConfig, save_dir: str) -> "Executor":
    """Return the executor of --engine."""
    if config.engine == "local":
        from distillers.sweep.executors.local import LocalExecutor

        return LocalExecutor(local_slots(config))
    from distillers.sweep.executors import Resources

    if config.gpu_id not in (None, "cpu"):
        raise InputError(f"--engine {config.engine} places runs itself; --gpu_id may be cpu.")
    use_gpu = config.gpu_id is None
    resources = Resources(config.threads or 1, use_gpu, config.per_gpu, config.jobs)
    if config.engine == "ray":
        from distillers.sweep.executors.ray import RayExecutor

        return RayExecutor(config.ray_address, resources)
    from distillers.sweep.executors.slurm import SlurmExecutor

    options = _single_values(_parse_assignments("slurm", (config.slurm,)))
    return SlurmExecutor(save_dir, resources, options)


def local_slots(config: SweepConfig) -> "Slots":
    """Return the places for concurrent runs on this machine."""
    from distillers.config.cpus import usable_cpus
    from distillers.sweep.executors.local import divide_machine, selected_gpus

    gpus = selected_gpus(config.gpu_id)
    return divide_machine(gpus, usable_cpus(), config.per_gpu, config.jobs, config.threads)


def _parse_assignments(flag: str, groups: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    """Return the values by name in NAME=VALUE,VALUE words; each value is parsed as YAML."""
    values: dict[str, list[Any]] = {}
    for word in (word for group in groups for word in group):
        name, _, text = word.partition("=")
        if not (name and text):
            raise InputError(f"--{flag} {word} must read NAME=VALUE.")
        name = name.replace("-", "_")
        if name in values:
            raise InputError(f"--{flag} gives {name} twice.")
        values[name] = cast("list[Any]", parse_yaml(f"[{text}]", f"--{flag} {word}"))
    return values


def _single_values(lists: dict[str, list[Any]]) -> dict[str, Any]:
    """Replace lists of one element by it; others are one value, as in lr_decay_epochs=150,180."""
    return {name: each[0] if len(each) == 1 else each for name, each in lists.items()}


class _Stopped(BaseException):
    """A signal stopped the sweep; like KeyboardInterrupt, nothing on the way catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Raise `_Stopped` at the first signal, and ignore others while the runs save their states."""

    def stop(number: int, _: object) -> None:
        for each in previous:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOP_SIGNALS)}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:  # as SIGHUP under nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

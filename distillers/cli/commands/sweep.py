"""`distillers sweep`: run a grid of trainings on all available devices."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from tyro.conf import Positional, UseAppendAction, arg

from distillers.config.flags import AT_LEAST_1, check_ranges
from distillers.config.parsing import parse
from distillers.errors import InputError
from distillers.sweep import grid_file
from distillers.sweep.grid import Grid

if TYPE_CHECKING:
    from distillers.sweep.engine import Engine, Slots
    from distillers.sweep.ledger import Ledger
    from distillers.sweep.runs import Plan


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
        """Check the flags.

        Raises:
            InputError: naming the flag, its value, and what is allowed.
        """
        check_ranges(self)
        if self.grid is None and not self.pairs:
            raise InputError(
                "nothing to sweep: give a grid file, or --pairs 'resnet20 -> resnet8'."
            )

    def read_grid(self) -> Grid:
        """Return the grid of the file with the changes of the flags."""
        grid = grid_file.from_file(self.grid) if self.grid else Grid()
        grid = grid_file.changed(
            grid,
            pairs=self.pairs,
            methods=self.methods,
            trials=self.trials,
            fixed={name: v[0] for name, v in _assignments("fixed", self.fixed, 1).items()},
            sets=_assignments("set", self.sets),
        )
        return replace(grid, save_dir=self.save_dir) if self.save_dir else grid


def main(args: Sequence[str]) -> None:
    """Run the grid; the exit status is 1 if a run has failed."""
    config = parse(SweepConfig, args, "distillers sweep")
    config.check()
    grid = config.read_grid()
    grid.check()

    from distillers.sweep.checks import Sources, check_networks
    from distillers.sweep.ledger import Ledger
    from distillers.sweep.runs import expand

    plan = expand(grid)
    if not plan.runs:
        raise InputError("the grid has no runs: no method is for one of its pairs.")
    ledger = Ledger(grid.save_dir)
    if config.dry_run:
        from distillers.sweep.dry import tell

        here = config if config.engine == "local" else replace(config, jobs=None, gpu_id=None)
        slots = slots_here(here)
        tell(plan, ledger, grid.save_dir, slots, config.jobs or len(slots.gpus))
        return
    check_networks(plan.runs, Sources())
    drive(config, plan, ledger, grid.save_dir)


def drive(config: SweepConfig, plan: "Plan", ledger: "Ledger", save_dir: str) -> None:
    """Execute a plan and print the failed runs."""
    from distillers.sweep.drive import State, Sweep
    from distillers.sweep.screen import Screen, failures

    engine, threads = make_engine(config, save_dir)
    ledger.make()
    if config.retry_failed:
        for run in plan.runs:
            ledger.forgive(run.folder)
    sweep, screen = Sweep(plan.runs, ledger, engine, threads, save_dir), Screen()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        sweep.run(screen.show)
    except KeyboardInterrupt:
        print("stopped; the same command resumes.", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
        screen.close(sweep)
    if len(sweep.of(State.DONE)) < len(sweep.all):
        print("\n".join(failures(sweep)))
        sys.exit(1)
    print(f"all done; `distillers report {save_dir}` compares them.")


def make_engine(config: SweepConfig, save_dir: str) -> tuple["Engine", int]:
    """Return the requested engine and the CPU threads of each run."""
    if config.engine == "local":
        from distillers.sweep.local import LocalPool

        slots = slots_here(config)
        return LocalPool(slots), slots.threads
    threads, cpu_only = config.threads or 1, config.gpu_id == "cpu"
    if config.gpu_id not in (None, "cpu"):
        raise InputError(f"--engine {config.engine} places runs itself; --gpu_id may be cpu.")
    if config.engine == "ray":
        from distillers.sweep.local import cores
        from distillers.sweep.on_ray import RayCluster

        ray = RayCluster(
            config.ray_address,
            cores=cores(),
            threads=threads,
            per_gpu=config.per_gpu,
            cpu_only=cpu_only,
            jobs=config.jobs,
        )
        return ray, threads
    from distillers.sweep.on_slurm import SlurmQueue

    given = _assignments("slurm", (config.slurm,), 1)
    settings = {name: values[0] for name, values in given.items()}
    use = {"use_gpu": not cpu_only, "jobs": config.jobs, "settings": settings}
    return SlurmQueue(save_dir, threads=threads, **use), threads


def slots_here(config: SweepConfig) -> "Slots":
    """Return the slots for concurrent runs on this machine."""
    from distillers.sweep.engine import slots
    from distillers.sweep.local import cores, gpus_of

    gpus = gpus_of(config.gpu_id)
    return slots(gpus, cores(), config.per_gpu, config.jobs, config.threads)


def _assignments(
    flag: str, groups: Sequence[Sequence[str]], most: int | None = None
) -> dict[str, list[Any]]:
    """Parse NAME=VALUE,VALUE words; the values are parsed as YAML.

    Args:
        flag: name of the flag, for error messages.
        groups: the words.
        most: with 1, a list of values is one value.
    """
    found: dict[str, list[Any]] = {}
    for word in (word for group in groups for word in group):
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise InputError(f"--{flag} {word} must read NAME=VALUE.")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError as error:
            raise InputError(f"--{flag} {word}: {error}") from error
        if most is not None and len(values) > most:
            values = [values]  # one value that is a list, as in lr_decay_epochs=150,180
        name = name.replace("-", "_")
        if name in found:
            raise InputError(f"--{flag} gives {name} twice.")
        found[name] = values
    return found


def _interrupt(*_: object) -> None:
    """End a sweep on SIGTERM as on Ctrl-C: its runs save their state."""
    raise KeyboardInterrupt

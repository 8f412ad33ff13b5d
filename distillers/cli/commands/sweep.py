"""`distillers sweep`: every run of a grid, on the devices there are."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from tyro.conf import Positional, UseAppendAction, arg

from distillers.config.flags import require
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

    Killed at any point and started again with the same words, it goes on: no finished run is
    started again, a half-done one goes on from where it saved. docs/sweep.md tells the file.
    """

    grid: Positional[str | None] = None
    """A YAML or JSON file. Left out: --pairs, --methods, --trials say it all."""
    pairs: tuple[str, ...] = ()
    """In the place of the file's, as in --pairs 'resnet20 -> resnet8' 'wrn_40_2 -> vgg8'."""
    methods: tuple[str, ...] = ()
    """Likewise, as in --methods alone kd crd+kd."""
    trials: tuple[int, ...] = ()
    """Likewise, as in --trials 1 2 3."""
    fixed: Annotated[tuple[tuple[str, ...], ...], UseAppendAction] = ()
    """Flags of every run, as in --fixed dataset=digits epochs=3."""
    sets: Annotated[tuple[tuple[str, ...], ...], arg(name="set"), UseAppendAction] = ()
    """Flags of the students' runs and their values, as in --set learning_rate=0.05,0.1."""
    save_dir: str | None = None
    """Where the runs are saved. Left out: as the file says, else ./save."""

    engine: Literal["local", "ray", "slurm"] = "local"
    """Processes on this machine, tasks of a Ray cluster, or jobs of SLURM."""
    jobs: int | None = None
    """Runs at once. Left out: as many as GPUs or cores take, or as the cluster likes."""
    per_gpu: int = 1
    """Runs that share a GPU."""
    threads: int | None = None
    """CPU threads of a run. Left out: the cores divided by the jobs; 1 without a GPU."""
    gpu_id: str | None = None
    """The GPUs to use, as in 0,2, or cpu. Left out: all there are."""
    ray_address: str | None = None
    """A Ray cluster that is there. Left out: one is started on this machine."""
    slurm: tuple[str, ...] = ()
    """For submitit, as in --slurm slurm_partition=gpu timeout_min=600 mem_gb=16."""

    dry_run: bool = False
    """Print the command of every run and what they will cost; start nothing."""
    retry_failed: bool = False
    """Start runs that failed before once more."""

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the flag.
        """
        require("per_gpu", self.per_gpu, self.per_gpu >= 1, "at least 1")
        for name in ("jobs", "threads"):
            value = getattr(self, name)
            require(name, value, value is None or value >= 1, "at least 1")
        if self.grid is None and not self.pairs:
            raise InputError(
                "nothing to sweep: name a grid file, or --pairs 'resnet20 -> resnet8'."
            )

    def read_grid(self) -> Grid:
        """The file's grid with what the flags change."""
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
    """Run the grid; exit status 1 when a run has failed."""
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
    """Run a plan to its end, then tell what failed."""
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
        print("stopped; the same command goes on.", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
        screen.close(sweep)
    if len(sweep.of(State.DONE)) < len(sweep.all):
        print("\n".join(failures(sweep)))
        sys.exit(1)
    print(f"all done; `distillers report {save_dir}` compares them.")


def make_engine(config: SweepConfig, save_dir: str) -> tuple["Engine", int]:
    """The engine that the flags ask for, and the CPU threads of each run."""
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
    """How many runs this machine takes at once."""
    from distillers.sweep.engine import slots
    from distillers.sweep.local import cores, gpus_of

    gpus = gpus_of(config.gpu_id)
    return slots(gpus, cores(), config.per_gpu, config.jobs, config.threads)


def _assignments(
    flag: str, groups: Sequence[Sequence[str]], most: int | None = None
) -> dict[str, list[Any]]:
    """The values in name=value,value by name, read as YAML reads them."""
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
    """SIGTERM ends a sweep as Ctrl-C does: its runs save what they can."""
    raise KeyboardInterrupt

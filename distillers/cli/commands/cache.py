"""`distillers cache`: fill, look at, check and delete caches of what a teacher says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from distillers.config.data import check_dali
from distillers.config.parsing import parse
from distillers.config.sizes import num_bytes, num_days
from distillers.config.student import StudentConfig
from distillers.errors import InputError, unknown

if TYPE_CHECKING:
    from distillers.distributed.world import World

WHERE = "./save/teacher_cache"
USAGE = """usage: distillers cache ACTION [FLAGS]

What a teacher says of every augmented view of every image, computed once (--teacher_cache).

  build     fill a cache ahead of the runs; takes the flags of `distillers student`
  info      show the caches in a folder
  verify    compare every row with its checksum
  prune     delete caches by age and size

`distillers cache ACTION --help` tells the flags of an action."""


@dataclass(frozen=True)
class InfoConfig:
    """Show the caches in a folder: of what, how full, how large, when last used."""

    where: Positional[str] = WHERE
    """A folder of caches, or one cache."""


@dataclass(frozen=True)
class VerifyConfig:
    """Compare every row with its checksum."""

    where: Positional[str] = WHERE
    """A folder of caches, or one cache."""
    repair: bool = False
    """Empty the rows that differ, so that they are computed anew."""


@dataclass(frozen=True)
class PruneConfig:
    """Delete caches that no process uses, without asking; what is deleted is printed."""

    where: Positional[str] = WHERE
    """A folder of caches."""
    unused_for: str | None = None
    """Those that no run has opened for so long: 30d, 2w, 12h."""
    older_than: str | None = None
    """Those that were begun so long ago."""
    keep: str | None = None
    """Then those that were not used for longest, until so much is left: 100GB."""
    dry_run: bool = False
    """Only print what would be deleted."""


def main(args: Sequence[str]) -> None:
    """Run one action."""
    actions = {"build": build, "info": info, "verify": verify, "prune": prune}
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return
    if args[0] not in actions:
        raise unknown("action", args[0], actions)
    actions[args[0]](args[1:])


def build(args: Sequence[str]) -> None:
    """Run the teacher for every view that is not there yet; goes on where it stopped."""
    config = parse(StudentConfig, args, "distillers cache build")
    config.check()

    from distillers.cli import launch
    from distillers.distillation import loss_weights as weights

    weights.options(config, weights.choose(config))
    launch.run(config, "cache", ["build", *args], lambda world: work(config, world))


def work(config: StudentConfig, world: "World") -> None:
    """Fill a part of the cache in one of the processes that do.

    Raises:
        InputError: when there can be no cache.
    """
    from distillers import data
    from distillers.data.loaders.views import resolve_views
    from distillers.distillation.cache import fill, request
    from distillers.training import runner as run
    from distillers.training.student_setup import made, teacher_of

    check_dali(config.dali, world.device.type)
    batch_size = run.batch_of(config, world)
    with world.local_rank0_first():
        source = data.source_of(
            config.dataset, config.data_dir, config.download, config.decode_options()
        )
    views = resolve_views(config.views, True, source)
    assert views is not None  # as there is a cache
    teacher = teacher_of(config, source)
    run.prepare(config)
    task, net, source, kept, sample = made(config, teacher, source, world)
    asked = request.cache_request(config, net, teacher.name, kept, views)
    cache = request.open_cache(config, asked, task, sample, asked.num_views, world)
    if cache is None:
        raise InputError("there is nothing to build.")
    fill.fill_cache(cache, kept, asked, batch_size, world)
    computed = f"computed {cache.total_computed(world):,} views"
    world.say(f"{computed}; the cache is full: {asked.where}")


def info(args: Sequence[str]) -> None:
    """Print what there is."""
    config = parse(InfoConfig, args, "distillers cache info")

    from distillers.distillation.cache import maintenance

    caches = maintenance.find_caches(Path(config.where).expanduser())
    for found in caches:
        print("\n".join(maintenance.info(found)))
    print(f"{len(caches)} caches in {config.where}")


def verify(args: Sequence[str]) -> None:
    """Print what is damaged.

    Raises:
        InputError: when something is.
    """
    config = parse(VerifyConfig, args, "distillers cache verify")

    from distillers.distillation.cache import maintenance

    caches, count = maintenance.find_caches(Path(config.where).expanduser()), 0
    for found in caches:
        lines, damaged = maintenance.verify(found, config.repair)
        count += damaged
        print("\n".join(lines))
    if count and not config.repair:
        raise InputError(f"{count:,} rows are damaged; --repair empties them.")
    print(f"{len(caches)} caches in {config.where}")


def prune(args: Sequence[str]) -> None:
    """Delete by the rules that were given.

    Raises:
        InputError: when none was given.
    """
    config = parse(PruneConfig, args, "distillers cache prune")
    given = (config.unused_for, config.older_than, config.keep)
    if given == (None, None, None):
        raise InputError("say what to delete: --unused_for 30d, --older_than 90d or --keep 100GB.")
    unused, older = (
        None if text is None else num_days(text, flag)
        for text, flag in zip(given[:2], ("unused_for", "older_than"), strict=True)
    )
    keep = None if config.keep is None else num_bytes(config.keep, "keep")

    from distillers.distillation.cache import maintenance

    where = Path(config.where).expanduser()
    caches = maintenance.find_caches(where)
    maintenance.finish_deletions(where)
    for line in maintenance.prune(
        caches, maintenance.PruneRules(unused, older, keep), config.dry_run
    ):
        print(line)

"""`distillers cache`: build, inspect, verify, prune and share caches of teacher outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from distillers.config.flags import AT_LEAST_1
from distillers.config.parsing import parse
from distillers.config.sizes import format_bytes, num_bytes, num_days, pluralize
from distillers.config.student import StudentConfig
from distillers.errors import InputError, unknown

if TYPE_CHECKING:
    from distillers.data.source import DataSource
    from distillers.distillation.cache.teacher_cache import TeacherCache
    from distillers.distributed.world import World

WHERE = "./save/teacher_cache"
USAGE = """usage: distillers cache ACTION [FLAGS]

Caches of teacher outputs for every augmented view of every image (--teacher_cache), and portable
packs of soft labels made from them. build, export and import take the flags of `distillers
student`.

  build     fill a cache before training
  info      list the caches in a folder
  verify    compare every row with its checksum
  prune     delete caches by age and size
  export    write a pack, filling the cache first
  import    check a pack against images and copy it to the folder of the caches

`distillers cache ACTION --help` lists the flags of an action."""


@dataclass(frozen=True)
class InfoConfig:
    """List the caches in a folder: content, completeness, size and last use."""

    where: Positional[str] = WHERE
    """Folder of caches, or one cache."""


@dataclass(frozen=True)
class VerifyConfig:
    """Compare every row with its checksum."""

    where: Positional[str] = WHERE
    """Folder of caches, or one cache."""
    repair: bool = False
    """Clear damaged rows, so that they are computed again."""


@dataclass(frozen=True)
class PruneConfig:
    """Delete caches that no process uses and print their paths; does not ask."""

    where: Positional[str] = WHERE
    """Folder of caches."""
    unused_for: str | None = None
    """Delete caches that no run has opened for this long: 30d, 2w, 12h."""
    older_than: str | None = None
    """Delete caches that were created this long ago."""
    keep: str | None = None
    """Then delete the least recently used caches until at most this much is left: 100GB."""
    dry_run: bool = False
    """Print what would be deleted; delete nothing."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StudentConfig):
    """Write a portable pack of what the teacher computed, which needs no teacher to be read."""

    pack: Positional[str]
    """New folder for the pack."""
    top_k: Annotated[int | None, AT_LEAST_1] = None
    """Store only so many largest logits of each view, the others by their mass. Default: all."""
    embeddings: Literal["half", "int8", "none"] = "half"
    """Precision of the embeddings, if the losses read them."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig(StudentConfig):
    """Check a pack against a run's images, classes and augmentation, and copy it to the caches."""

    pack: Positional[str]
    """Folder of the pack."""


def main(args: Sequence[str]) -> None:
    """Run one action."""
    actions = {
        "build": build,
        "info": info,
        "verify": verify,
        "prune": prune,
        "export": export_pack,
        "import": import_pack,
    }
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return
    if args[0] not in actions:
        raise unknown("action", args[0], actions)
    actions[args[0]](args[1:])


def build(args: Sequence[str]) -> None:
    """Run the teacher for every view that is not cached yet; continues after an interruption."""
    config = parse(StudentConfig, args, "distillers cache build")
    config.check()

    from distillers.cli import launch
    from distillers.distillation import loss_weights

    loss_weights.options(config, loss_weights.choose(config))  # before files are read

    launch.run(config, "cache", ["build", *args], lambda world: work(config, world))


def export_pack(args: Sequence[str]) -> None:
    """Fill the cache and write it as a pack."""
    config = parse(ExportConfig, args, "distillers cache export")
    config.check()

    from distillers.cli import launch
    from distillers.distillation.cache.folder import read_card
    from distillers.distillation.cache.pack_write import PackOptions, read_cache, write_pack

    def export(world: "World") -> None:
        caches, train, num_views = work(config, world)
        if len(caches) > 1:
            raise InputError("a pack holds the outputs of one teacher; give --path_t once.")
        if not world.is_first:
            return
        values = read_cache(caches[0], len(train.train_labels) * num_views)
        options = PackOptions(config.top_k, config.embeddings)
        folder = Path(config.pack).expanduser()
        teacher = read_card(caches[0].folder.path)["key"]["teacher"]
        manifest = write_pack(folder, values, train, num_views, options, teacher)
        size = sum(path.stat().st_size for path in folder.iterdir())
        world.say(
            f"wrote {folder}: {', '.join(manifest['tensors'])} of {len(train.train_labels):,} "
            f"images x {pluralize(num_views, 'view')}, {format_bytes(size)}"
        )

    launch.run(config, "cache", ["export", *args], export)


def import_pack(args: Sequence[str]) -> None:
    """Check a pack against the images of a run, and copy it to the folder of the caches."""
    config = parse(ImportConfig, args, "distillers cache import")
    replace(config, path_t="of the pack", teacher_cache=None).check()

    from distillers.distillation.cache.pack import Pack
    from distillers.distillation.cache.request import FOLDER
    from distillers.distributed.world import World
    from distillers.training import run_setup
    from distillers.training.images import split_images

    pack = Pack(config.pack)
    source = run_setup.load_data(config, World(), config.decode_options())
    train = pack.align(split_images(source, config).train)
    there = pack.copy(Path(config.save_dir) / FOLDER)
    print(
        f"{config.pack} by {pack.manifest['teacher']['model']} fits the "
        f"{len(train.train_labels):,} training images, {pluralize(pack.num_views, 'view')} each; "
        f"use it with --path_t {there}"
    )


def work(config: StudentConfig, world: "World") -> "tuple[list[TeacherCache], DataSource, int]":
    """Fill one process's part of the caches.

    Returns:
        the caches of the teachers, the training images, and the number of views of each.
    """
    from distillers.data.loaders.views import num_views_of, resolve_views
    from distillers.distillation.cache import fill
    from distillers.training import run_setup
    from distillers.training.student_setup import build_student, open_caches
    from distillers.training.teachers import load_teachers

    if config.pack_t is not None:
        raise InputError(f"--path_t {config.pack_t} is a pack already; give the teacher itself.")
    source = run_setup.load_data(config, world, config.decode_options())
    views = resolve_views(config.views, True, source)
    assert views is not None  # as there is a cache
    teachers = load_teachers(config, source, world)
    run_setup.seed_everything(config)
    setup = build_student(config, teachers, source, world)
    train = setup.splits.train
    num_views = num_views_of(views, train)
    caches = open_caches(config, teachers, setup, views, num_views, world)
    if len(caches) < len(setup.teachers):
        raise InputError("these flags leave no teacher outputs to cache.")
    batch_size = run_setup.batch_size_per_process(config, world)
    for cache in caches:
        fill.fill_cache(cache, train, num_views, batch_size, world)
        computed = pluralize(cache.total_computed(world), "view")
        world.say(f"computed {computed}; the cache is full: {cache.folder.path}")
    return caches, train, num_views


def info(args: Sequence[str]) -> None:
    """Print a description of each cache."""
    config = parse(InfoConfig, args, "distillers cache info")

    from distillers.distillation.cache import maintenance

    caches = maintenance.find_caches(Path(config.where).expanduser())
    for found in caches:
        print("\n".join(maintenance.info(found)))
    print(f"{pluralize(len(caches), 'cache')} in {config.where}")


def verify(args: Sequence[str]) -> None:
    """Print the damaged rows of each cache.

    Raises:
        InputError: if rows are damaged and --repair is not given.
    """
    config = parse(VerifyConfig, args, "distillers cache verify")

    from distillers.distillation.cache import maintenance

    caches, num_damaged = maintenance.find_caches(Path(config.where).expanduser()), 0
    for found in caches:
        lines, damaged = maintenance.verify(found, config.repair)
        num_damaged += damaged
        print("\n".join(lines))
    if num_damaged and not config.repair:
        raise InputError(f"damaged: {pluralize(num_damaged, 'row')}; --repair clears them.")
    print(f"{pluralize(len(caches), 'cache')} in {config.where}")


def prune(args: Sequence[str]) -> None:
    """Delete caches by age and size.

    Raises:
        InputError: if no rule is given.
    """
    config = parse(PruneConfig, args, "distillers cache prune")
    unused = None if config.unused_for is None else num_days(config.unused_for, "unused_for")
    older = None if config.older_than is None else num_days(config.older_than, "older_than")
    keep = None if config.keep is None else num_bytes(config.keep, "keep")
    if (unused, older, keep) == (None, None, None):
        raise InputError(
            "no rule is given: add --unused_for 30d, --older_than 90d or --keep 100GB."
        )

    from distillers.distillation.cache import maintenance

    where = Path(config.where).expanduser()
    caches = maintenance.find_caches(where)
    maintenance.finish_deletions(where)
    rules = maintenance.PruneRules(unused, older, keep)
    for line in maintenance.prune(caches, rules, config.dry_run):
        print(line)

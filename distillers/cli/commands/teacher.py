"""`distillers teacher`, the documented train_teacher.py."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillers.config.parsing import parse
from distillers.config.teacher import TeacherConfig
from distillers.files import file_name

if TYPE_CHECKING:
    from distillers.distributed.world import World


def main(args: Sequence[str]) -> None:
    """Train a network on labels alone."""
    config = parse(TeacherConfig, args, "train_teacher.py")
    config.check()

    from distillers.cli import launch

    launch.run(config, "teacher", args, lambda world: work(config, world))


def work(config: TeacherConfig, world: "World") -> None:
    """Train the network in one process."""
    from distillers.checkpoints.card import create_card
    from distillers.distillation.task import Supervised
    from distillers.losses import wiring
    from distillers.training import run_setup
    from distillers.training.class_weight import class_weight_options
    from distillers.training.images import split_images
    from distillers.training.run_dir import resolve_run_dir
    from distillers.training.runner import train

    source = run_setup.load_data(config, world, config.decode_options())
    run_dir = resolve_run_dir(config.folder(), config.model, config, world)
    run_setup.seed_everything(config)
    net, source = run_setup.build_network(config, source, source.num_classes, world)
    run_setup.print_start(config.model, config, run_dir.folder, world)
    card = create_card(config.model, source, channels_last=config.channels_last)
    splits = split_images(source, config)
    loss = wiring.find(config.label_loss)(**class_weight_options(config, splits))
    train(config, Supervised(net, loss), splits, run_dir, card, world)
    if world.is_first:
        print(f"saved {_link(run_dir.folder, config) / run_dir.best.name}")


def _link(folder: Path, config: TeacherConfig) -> Path:
    """Link MODEL_vanilla, the documented folder, to the newest run of that network.

    Returns:
        The link, or `folder` if it cannot be created.
    """
    alias = folder.with_name(f"{file_name(config.model)}_vanilla")
    if alias.exists() and not alias.is_symlink():
        print(f"{alias} is a folder, not a link to a run; it is left unchanged.")
        return folder
    temporary = alias.with_name(f"{alias.name}.{os.getpid()}.part")  # two runs may end together
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(folder.name, temporary, target_is_directory=True)
    except OSError as error:
        print(f"cannot link {alias} to the run ({error}); use the path of the run.")
        return folder
    temporary.replace(alias)
    print(f"{alias} now points to {folder.name}")
    return alias

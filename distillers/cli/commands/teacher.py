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
    """Train it in one of the processes that do."""
    from distillers.checkpoints.card import create_card
    from distillers.checkpoints.initial import build_initial, check_forward
    from distillers.checkpoints.input_adapter import with_normalization
    from distillers.distillation.task import Supervised
    from distillers.losses import CE
    from distillers.training import runner as run
    from distillers.training.run_dir import resolve_run_dir

    source = run.load_data(config, world, config.decode_options())
    place = resolve_run_dir(config.folder(), config.model, config, world)
    run.seed_everything(config)
    initial = build_initial(
        config.model,
        config.pretrained,
        num_classes=source.num_classes,
        image_size=source.image_size,
        log=world.say,
    )
    source = with_normalization(source, initial.mean, initial.std)
    net = run.to_device(initial.net, config, world)
    check_forward(net, config.model, source.sample(world.device), source.num_classes)
    task = Supervised(net, CE())
    world.say(
        f"{config.model} on {config.dataset}, {run.describe_devices(world)}, into {place.folder}"
    )
    run.train(
        config,
        task,
        run.split(source, config),
        place,
        create_card(config.model, source, channels_last=config.channels_last),
        world,
    )
    if world.is_first:
        alias = _point(place.folder, config)
        print(f"saved {alias / place.best.name}")


def _point(folder: Path, config: TeacherConfig) -> Path:
    """Let MODEL_vanilla, the documented folder, stand for the newest teacher of its name."""
    alias = folder.with_name(f"{file_name(config.model)}_vanilla")
    if alias.exists() and not alias.is_symlink():
        print(f"{alias} is a folder of its own and stays as it is.")
        return folder
    aside = alias.with_name(f"{alias.name}.{os.getpid()}.part")  # runs may end at once
    aside.unlink(missing_ok=True)
    try:
        os.symlink(folder.name, aside, target_is_directory=True)
    except OSError as error:
        print(f"cannot link {alias} to the run ({error}); use the run's own path.")
        return folder
    aside.replace(alias)
    print(f"{alias} now stands for {folder.name}")
    return alias

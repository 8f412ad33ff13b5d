"""`distillers student`, the documented train_student.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillers.config.parsing import parse
from distillers.config.student import StudentConfig

if TYPE_CHECKING:
    from distillers.distributed.world import World


def main(args: Sequence[str]) -> None:
    """Distil a student from a trained teacher."""
    config = parse(StudentConfig, args, "train_student.py")
    config.check()

    from distillers.checkpoints.io import check_exists
    from distillers.checkpoints.load import best_checkpoint
    from distillers.cli import launch
    from distillers.distillation import loss_weights

    loss_weights.options(config, loss_weights.choose(config))  # before files are read
    assert config.path_t is not None  # config.check refuses None
    check_exists(best_checkpoint(Path(config.path_t)))  # before data is fetched
    launch.run(config, "student", args, lambda world: work(config, world))


def work(config: StudentConfig, world: "World") -> None:
    """Distil the student in one process."""
    from distillers.checkpoints.card import create_card
    from distillers.data.loaders.views import resolve_views
    from distillers.training import run_setup
    from distillers.training.evaluate import score
    from distillers.training.run_dir import check_same_source, resolve_run_dir
    from distillers.training.runner import train
    from distillers.training.student_setup import (
        build_student,
        chance_warnings,
        choose_probe,
        load_teacher,
    )

    source = run_setup.load_data(config, world, config.decode_options())
    views = resolve_views(config.views, config.teacher_cache is not None, source)
    teacher = load_teacher(config, source)
    weights = teacher.weights
    folder = config.folder(weights.ce, weights.kd, weights.method, teacher.name)
    run_dir = resolve_run_dir(folder, config.model_s, config, world)
    check_same_source(run_dir, ("distilled", "teacher_sha256"), teacher.path)
    run_setup.seed_everything(config)
    task, net, splits, sample = build_student(config, teacher, source, world)
    devices = run_setup.describe_devices(world)
    terms = " + ".join(f"{weight:g} {name}" for name, weight in weights.terms().items())
    networks = f"{config.model_s} from {teacher.name}"
    world.say(f"{networks} on {config.dataset}, {devices}, into {run_dir.folder}")
    world.say(f"loss: {terms} (protocol {config.protocol})")
    cache = None
    if config.teacher_cache is not None and views is not None:
        from distillers.distillation.cache import request

        asked = request.cache_request(config, net, teacher.name, splits.train, views)
        num_fills = config.epochs + task.warmup_epochs
        cache = request.open_cache(config, asked, task, sample, num_fills, world)
    saved = teacher.classifier.card
    accuracy = saved.get("accuracy") if saved.get("dataset") == source.name else None
    if not config.skip_validation:
        test = splits.test.test_loader(world.device, world.shard)
        accuracy = score(net, test.epoch(1), world).acc
        world.say(f"teacher: {accuracy:.2f} % on the {splits.test.test_part} images")
        for warning in chance_warnings(accuracy, splits.test):
            world.say(warning)
    card = create_card(config.model_s, splits.test, channels_last=config.channels_last)
    card["distilled"] = teacher.card(config, accuracy)
    probe = choose_probe(config, task, splits, world)
    if probe:
        card["distilled"]["probe"] = probe.kind
    train(config, task, splits, run_dir, card, world, views=views, cache=cache, probe=probe)
    if cache:
        world.say(f"teacher cache: the teacher ran for {cache.total_computed(world):,} images")
    world.say(f"saved {run_dir.best}")

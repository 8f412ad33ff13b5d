"""`distillers student`, the documented train_student.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillers.config.parsing import parse
from distillers.config.student import StudentConfig

if TYPE_CHECKING:
    from distillers.distillation.cache.loader import StoredOutputs
    from distillers.distributed.world import World


def main(args: Sequence[str]) -> None:
    """Distil a student from a trained teacher."""
    config = parse(StudentConfig, args, "train_student.py")
    config.check()

    from distillers.cli import launch
    from distillers.distillation import loss_weights
    from distillers.training.teachers import check_exist

    loss_weights.options(config, loss_weights.choose(config))  # before files are read
    check_exist(config)  # before data is fetched
    launch.run(config, "student", args, lambda world: work(config, world))


def work(config: StudentConfig, world: "World") -> None:
    """Distil the student in one process."""
    from distillers.checkpoints.card import create_card
    from distillers.data.loaders.views import resolve_views
    from distillers.distillation.cache.pack import open_pack, views_of_pack
    from distillers.training import run_setup
    from distillers.training.run_dir import check_same_source, resolve_run_dir
    from distillers.training.runner import train
    from distillers.training.student_setup import (
        build_student,
        check_pack,
        choose_probe,
        open_caches,
        score_teachers,
    )
    from distillers.training.teachers import load_teachers

    source = run_setup.load_data(config, world, config.decode_options())
    pack = open_pack(config.teacher_cache)
    cached = config.teacher_cache is not None
    views = (
        views_of_pack(config.views, pack, source)
        if pack
        else resolve_views(config.views, cached, source)
    )
    teachers = load_teachers(config, source, world)
    weights = teachers.weights
    folder = config.folder(weights.ce, weights.kd, weights.method, teachers.name)
    run_dir = resolve_run_dir(folder, config.model_s, config, world)
    check_same_source(run_dir, ("distilled", "teacher_sha256"), teachers.names, teachers.digest)
    run_setup.seed_everything(config)
    setup = build_student(config, teachers, source, world, pack)
    devices = run_setup.describe_devices(world)
    terms = " + ".join(f"{weight:g} {name}" for name, weight in weights.terms().items())
    networks = f"{config.model_s} from {teachers.name}"
    world.say(f"{networks} on {config.dataset}, {devices}, into {run_dir.folder}")
    world.say(f"loss: {terms} (protocol {config.protocol})")
    caches: list[StoredOutputs] = []
    if pack:
        check_pack(pack, setup, world)
        caches = [pack]
    elif cached and views is not None:
        num_fills = config.epochs + setup.task.warmup_epochs
        caches += open_caches(config, teachers, setup, views, num_fills, world)
    accuracy = teachers.known_accuracy(source.name)
    if not config.skip_validation:
        accuracy = score_teachers(setup, teachers, config, world)
    splits = setup.splits
    card = create_card(config.model_s, splits.test, channels_last=config.channels_last)
    if config.student_head == "none":
        card |= {"num_classes": 0, "class_names": None}
    card["distilled"] = teachers.card(config, accuracy)
    probe = choose_probe(config, setup.task, splits, world)
    if probe:
        card["distilled"]["probe"] = probe.kind
    train(config, setup.task, splits, run_dir, card, world, views=views, caches=caches, probe=probe)
    for cache in caches:
        world.say(f"teacher cache: the teacher ran for {cache.total_computed(world):,} images")
    world.say(f"saved {run_dir.best}")

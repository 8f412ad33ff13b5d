"""`distillers student`, the documented train_student.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillers.config.parsing import parse
from distillers.config.sizes import pluralize
from distillers.config.student import StudentConfig

if TYPE_CHECKING:
    from distillers.distributed.world import World


def main(args: Sequence[str]) -> None:
    """Distill a student from a trained teacher."""
    config = parse(StudentConfig, args, "train_student.py")
    config.check()

    from distillers.cli import launch
    from distillers.distillation import loss_weights
    from distillers.training.teachers import check_exist

    loss_weights.options(config, loss_weights.choose(config))  # before files are read
    check_exist(config)  # before data is fetched
    launch.run(config, "student", args, lambda world: work(config, world))


def work(config: StudentConfig, world: "World") -> None:
    """Distill the student in one process."""
    from distillers.distillation.cache.pack import open_pack
    from distillers.training import run_setup
    from distillers.training.run_dir import check_same_source, resolve_run_dir
    from distillers.training.runner import train
    from distillers.training.student_setup import (
        build_student,
        choose_probe,
        choose_views,
        create_student_card,
        open_stored_outputs,
    )
    from distillers.training.teacher_scores import score_teachers
    from distillers.training.teachers import load_teachers

    source = run_setup.load_data(config, world, config.decode_options())
    pack = open_pack(config.pack_t or config.teacher_cache)
    views = choose_views(config, pack, source)
    teachers = load_teachers(config, source, world, pack)
    run_dir = resolve_run_dir(teachers.run_folder(config), config.model_s, config, world)
    check_same_source(run_dir, ("distilled", "teacher_sha256"), teachers.names, teachers.digest)
    run_setup.seed_everything(config)
    setup = build_student(config, teachers, source, world, pack)
    networks = f"{config.model_s} from {teachers.name}"
    run_setup.print_start(networks, config, run_dir.folder, world)
    world.say(f"loss: {teachers.weights} (protocol {config.protocol})")
    outputs = open_stored_outputs(config, teachers, setup, views, pack, world)
    accuracy = teachers.known_accuracy(source.name)
    if not config.skip_validation and config.pack_t is None:
        accuracy = score_teachers(setup, teachers, config, world)
    probe = choose_probe(config, setup.task, setup.splits, world)
    card = create_student_card(config, setup, teachers.card(config, accuracy), probe)
    train(
        config,
        setup.task,
        setup.splits,
        run_dir,
        card,
        world,
        views=views,
        caches=outputs,
        probe=probe,
    )
    for cache in outputs:
        count = pluralize(cache.total_computed(world), "image")
        world.say(f"teacher cache: the teacher ran for {count}")
    world.say(f"saved {run_dir.best}")

"""`distillers student`, the documented train_student.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillers.cli import parse
from distillers.config import plain
from distillers.config_student import StudentConfig
from distillers.data.reading import check_dali

if TYPE_CHECKING:
    from distillers.distributed import World


def main(args: Sequence[str]) -> None:
    """Distil a student from a trained teacher."""
    config = parse(StudentConfig, args, "train_student.py")
    config.check()

    from distillers import launch, weights

    weights.options(config, weights.choose(config))  # names and numbers, before files are read
    launch.run(config, "student", args, lambda world: work(config, world))


def work(config: StudentConfig, world: "World") -> None:
    """Distil it in one of the processes that do."""
    from distillers import checkpoint, data, inputs, parallel, run, start, weights
    from distillers.distillation import distil
    from distillers.place import claim
    from distillers.tap_rules import find_taps

    check_dali(config.dali, world.device.type)
    device, batch_size = world.device, run.batch_of(config, world)
    with world.one_after_another():
        source = data.source_of(config.dataset, config.data_dir, config.download, config.reading())
    size = source.image_size
    assert config.path_t is not None  # config.check refuses None
    teacher, card = checkpoint.load_network(
        config.path_t, name=config.model_t, num_classes=source.num_classes, image_size=size
    )
    inputs.check_classes(card, source, config.path_t)
    teacher_name = checkpoint.name_of(config.path_t, card, config.model_t)
    chosen = weights.choose(config, teacher_name)
    options = weights.options(config, chosen, teacher_name)
    folder = config.folder(chosen.ce, chosen.kd, chosen.method, teacher_name)
    place = claim(folder, config.model_s, config, world)
    run.prepare(config)
    begun = start.network(
        config.model_s,
        config.pretrained,
        num_classes=source.num_classes,
        image_size=size,
        say=world.say,
    )
    source = inputs.normalised(source, begun.mean, begun.std)
    teacher = inputs.adapted(teacher, card, mean=source.mean, std=source.std, size=(size, size))
    student = run.ready(begun.net, config, world)
    kept, _ = source.split(config.val_fraction, config.trial)
    sample = source.sample(device)
    task = distil(
        student,
        teacher.to(device),
        chosen.terms(),
        images=sample,
        train_labels=kept.train_labels.to(device),
        batch_size=batch_size,
        options=options,
        student_taps=find_taps(student, sample, maps=config.taps_s),
        teacher_taps=find_taps(teacher, sample, maps=config.taps_t),
    )
    if config.sync_bn:
        parallel.sync_losses(task.losses, world)
    terms = " + ".join(f"{weight:g} {name}" for name, weight in chosen.terms().items())
    which = f"{config.model_s} from {teacher_name} on {config.dataset}"
    world.say(f"{which}, {run.where(world)}, into {place.folder}")
    world.say(f"loss: {terms} (protocol {config.protocol})")
    accuracy = card.get("accuracy") if card.get("dataset") == source.name else None
    if not config.skip_validation:
        test = source.test_loader(device, world.shard)
        accuracy = run.score(teacher, test.epoch(1), world).acc
        world.say(f"teacher: {accuracy:.2f} % on the test images")
    settings = weights.settings(chosen, options)
    distilled = {
        "teacher": teacher_name,
        "teacher_sha256": checkpoint.digest(config.path_t),
        "teacher_accuracy": accuracy,
        "settings": plain(settings),
        "departures": plain(weights.departures(config, chosen, settings, teacher_name)),
    }
    described = {**run.card_of(config.model_s, source, config), "distilled": distilled}
    run.train(config, task, source, place, described, world)
    world.say(f"saved {place.best}")

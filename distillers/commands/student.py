"""`distillers student`, the documented train_student.py."""

from collections.abc import Sequence

from distillers.cli import parse
from distillers.config import plain
from distillers.config_student import StudentConfig


def main(args: Sequence[str]) -> None:
    """Distil a student from a trained teacher."""
    config = parse(StudentConfig, args, "train_student.py")
    config.check()

    from distillers import checkpoint, data, inputs, models, run, weights
    from distillers.distillation import distil
    from distillers.tap_rules import find_taps

    weights.options(config, weights.choose(config))  # names and numbers, before files are read
    device = run.device_of(config.gpu_id)
    source = data.source_of(config.dataset, config.data_dir, config.download, config.reading())
    size = source.image_size
    assert config.path_t is not None  # config.check refuses None
    teacher, card = checkpoint.load_network(
        config.path_t, name=config.model_t, num_classes=source.num_classes, image_size=size
    )
    teacher = inputs.adapted(teacher, card, mean=source.mean, std=source.std, size=(size, size))
    teacher_name = checkpoint.name_of(config.path_t, card, config.model_t)
    chosen = weights.choose(config, teacher_name)
    options = weights.options(config, chosen, teacher_name)
    folder = config.folder(chosen.ce, chosen.kd, chosen.method, teacher_name)
    place = run.claim(folder, config.model_s, config)
    run.prepare(config)
    student = models.create(config.model_s, num_classes=source.num_classes, image_size=size)
    kept, _ = source.split(config.val_fraction, config.trial)
    sample = source.sample(device)
    task = distil(
        student.to(device),
        teacher.to(device),
        chosen.terms(),
        images=sample,
        train_labels=kept.train_labels.to(device),
        batch_size=config.batch_size,
        options=options,
        student_taps=find_taps(student, sample, maps=config.taps_s),
        teacher_taps=find_taps(teacher, sample, maps=config.taps_t),
    )
    terms = " + ".join(f"{weight:g} {name}" for name, weight in chosen.terms().items())
    print(
        f"{config.model_s} from {teacher_name} on {config.dataset}, {device}, into {place.folder}"
    )
    print(f"loss: {terms} (protocol {config.protocol})")
    accuracy = card.get("accuracy") if card.get("dataset") == source.name else None
    if not config.skip_validation:
        accuracy = run.score(teacher, source.test_loader(device).epoch(1)).acc
        print(f"teacher: {accuracy:.2f} % on the test images")
    settings = weights.settings(chosen, options)
    distilled = {
        "teacher": teacher_name,
        "teacher_sha256": checkpoint.digest(config.path_t),
        "teacher_accuracy": accuracy,
        "settings": plain(settings),
        "departures": plain(weights.departures(config, chosen, settings, teacher_name)),
    }
    described = {**run.card_of(config.model_s, source, config), "distilled": distilled}
    run.train(config, task, source, place, described, device)
    print(f"saved {place.best}")

"""`distillers student`, the documented train_student.py."""

from collections.abc import Sequence

from distillers.cli import parse
from distillers.config_student import StudentConfig


def main(args: Sequence[str]) -> None:
    """Distil a student from a trained teacher."""
    config = parse(StudentConfig, args, "train_student.py")
    config.check()

    from distillers import data, run, weights
    from distillers.data.views import views_of
    from distillers.student import task_of, teacher_of

    weights.options(config, weights.choose(config))  # names and numbers, before files are read
    device = run.device_of(config.gpu_id)
    source = data.source_of(config.dataset, config.data_dir, config.download, config.reading())
    teacher = teacher_of(config, source)
    chosen = teacher.chosen
    folder = config.folder(chosen.ce, chosen.kd, chosen.method, teacher.name)
    place = run.claim(folder, config.model_s, config)
    kept, _ = source.split(config.val_fraction, config.trial)
    views = views_of(config.views, config.teacher_cache is not None, kept)
    run.prepare(config)
    sample = source.sample(device)
    task = task_of(config, teacher, kept, sample)
    terms = " + ".join(f"{weight:g} {name}" for name, weight in chosen.terms().items())
    print(
        f"{config.model_s} from {teacher.name} on {config.dataset}, {device}, into {place.folder}"
    )
    print(f"loss: {terms} (protocol {config.protocol})")
    cache = None
    if config.teacher_cache is not None and views is not None:
        from distillers.cache import choose

        asked = choose.wanted(config, teacher.net, teacher.name, kept, views)
        num_fills = config.epochs + task.warmup_epochs
        cache = choose.open_cache(config, asked, task, sample, num_fills)
    if not config.skip_validation:
        test = source.test_loader(device)
        print(f"teacher: {run.score(teacher.net, test.epoch(1)).acc:.2f} % on the test images")
    card = run.card_of(config.model_s, source, config)
    run.train(config, task, source, place, card, device, views=views, cache=cache)
    if cache:
        print(f"teacher cache: the teacher ran for {cache.num_computed:,} images")
    print(f"saved {place.best}")

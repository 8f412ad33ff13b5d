"""Build a student's run: the student, its losses, and the caches of its teachers."""

import re
from typing import NamedTuple

from torch import Tensor, nn

from distillers import data
from distillers.checkpoints.initial import build_initial, check_forward
from distillers.checkpoints.input_adapter import with_normalization
from distillers.config.data import NO_DATASET, NumViews
from distillers.config.student import StudentConfig
from distillers.data.source import DataSource
from distillers.distillation.build import distil
from distillers.distillation.cache.pack import Pack
from distillers.distillation.cache.request import cache_request, open_cache
from distillers.distillation.cache.teacher_cache import TeacherCache
from distillers.distillation.distillation import Distillation
from distillers.distillation.several import AverageNetwork
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.features.backbone import has_logits
from distillers.features.extractor import FeatureExtractor
from distillers.models.fake_quantize import fake_quantize_layers
from distillers.training import ddp, run_setup
from distillers.training.agreement import Agreement
from distillers.training.class_weight import class_weight_options
from distillers.training.evaluate import score
from distillers.training.images import Splits, split_images
from distillers.training.probe import Probe, embed
from distillers.training.teachers import LoadedTeachers, is_near_chance, prepare


def chance_warnings(accuracy: float, test: DataSource) -> list[str]:
    """Return a warning if a teacher is not clearly better than chance."""
    names, count = test.class_names, len(test.test_labels)
    if not is_near_chance(accuracy, count, len(names)):
        return []
    lines = [
        f"WARNING: the teacher is no better than chance ({accuracy:.2f} % of {count} test images, "
        f"chance is {100 / len(names):.2f} %): it may not be trained for these classes, or for "
        "images of this size and normalization."
    ]
    natural = sorted(names, key=_natural_key)
    if natural != list(names):
        lines.append(
            f"WARNING: or it was trained with the classes in another order: here they are sorted "
            f"alphabetically ({', '.join(names[:3])}, ...), in natural order they would be "
            f"{', '.join(natural[:3])}, ... Rename the folders if so (01, 02, ... for 1, 2, ...)."
        )
    return lines


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names as people do: numbers within them by value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


class StudentSetup(NamedTuple):
    """A student that is ready to train.

    Attributes:
        task: the student and its losses, on the device.
        teachers: the teachers, which take the same images as the student.
        splits: the images, normalised for the student.
        sample: (n, c, h, w), a few of these images on the device.
    """

    task: Distillation
    teachers: list[nn.Module]
    splits: Splits
    sample: Tensor


def choose_probe(
    config: StudentConfig, task: Distillation, splits: Splits, world: World
) -> Probe | Agreement | None:
    """Return how the student is scored by its embeddings; None for its own classifier.

    Without --probe it is its own classifier, unless no loss trains that.

    Raises:
        InputError: if a loss deploys another network than the student.
    """
    if config.dataset == NO_DATASET:
        return _agreement(task, splits, world)
    kind = config.probe
    if kind is None and not (task.trains_classifier or task.deploys):
        kind = "knn"
        world.say("no loss trains the student's classifier, so --probe knn scores its embeddings")
    if kind is None:
        return None
    if task.deploys:
        raise InputError(
            "--probe scores the student's embeddings, but a loss deploys another network; leave it "
            "out."
        )
    bank = splits.train
    if not bool((bank.train_labels >= 0).any()):
        options = config.decode_options()
        bank = data.source_of(config.dataset, config.data_dir, config.download, options)
        bank = with_normalization(bank, splits.test.mean, splits.test.std)
    known = int((bank.train_labels >= 0).sum())
    world.say(f"scores are those of --probe {kind} with {known:,} labelled training images")
    return Probe(kind, bank, task.student_taps, not has_logits(task.student))


def _agreement(task: Distillation, splits: Splits, world: World) -> Agreement:
    """Return how a student is compared with its first teacher on the test images."""
    loader = splits.test.test_loader(world.device, world.shard)
    with FeatureExtractor(task.teacher, task.teacher_taps, ["pooled"]) as extractor:
        embeddings = embed(extractor, loader, world)
    world.say(
        "test acc is the agreement with the teacher: how many % of the 20 nearest images of each "
        "held-out image are the same"
    )
    return Agreement(splits.test, task.student_taps, embeddings)


def build_student(
    config: StudentConfig,
    teachers: LoadedTeachers,
    source: DataSource,
    world: World,
    pack: Pack | None = None,
) -> StudentSetup:
    """Build the student and its losses.

    Args:
        config: the flags.
        teachers: the teachers.
        source: the images.
        world: the processes.
        pack: what the teacher computed; the training images get its order.

    Raises:
        InputError: if the networks do not fit the data or the losses.
    """
    classes = source.num_classes if config.student_head == "classes" else 0
    initial = build_initial(
        config.model_s,
        config.pretrained,
        num_classes=classes,
        image_size=source.image_size,
        drop_path=config.drop_path,
        log=world.say,
    )
    source = with_normalization(source, initial.mean, initial.std)
    student = run_setup.to_device(initial.net, config, world)
    splits = split_images(source, config)
    if pack:
        splits = splits._replace(train=pack.align(splits.train))
    sample = source.sample(world.device)
    check_forward(student, config.model_s, sample, classes)
    nets = [prepare(one, config, splits.train, sample, world) for one in teachers.teachers]
    options = {**teachers.options}
    if weighting := class_weight_options(config, splits):
        if not teachers.weights.ce:
            raise InputError("--class_weight weights the loss with the labels, but --cls is 0.")
        options[config.label_loss] = {**options.get(config.label_loss, {}), **weighting}
    task = distil(
        student,
        nets,
        teachers.weights.terms(),
        images=sample,
        train_labels=splits.train.train_labels.to(world.device),
        batch_size=run_setup.batch_size_per_process(config, world),
        options=options,
        student_taps=config.taps_s,
        teacher_taps=config.taps_t,
        teacher_weights=config.teacher_weights,
        combine=config.combine_teachers,
        drop_teachers=config.drop_teachers,
    )
    if config.sync_bn:
        ddp.sync_losses(task.losses, world)
    if config.qat:  # last, because taps are found by the classes of layers
        num_layers = fake_quantize_layers(student)
        world.say(f"{num_layers} layers of the student simulate int8 in training (--qat)")
    return StudentSetup(task, nets, splits, sample)


def check_pack(pack: Pack, setup: StudentSetup, world: World) -> None:
    """Check that a pack has all that the losses read.

    Raises:
        InputError: if it has not, or there are several teachers.
    """
    if len(setup.teachers) > 1:
        raise InputError("a pack holds the outputs of one teacher; give --path_t once.")
    pack.check_reads([f"teacher_{kind}" for kind in setup.task.frozen.extractor.kinds])
    world.say(f"teacher outputs: those of the pack {pack.folder}")


def open_caches(
    config: StudentConfig,
    teachers: LoadedTeachers,
    setup: StudentSetup,
    views: NumViews,
    num_fills: int,
    world: World,
) -> list[TeacherCache]:
    """Open a cache for each teacher; those that would exceed the budget are left out."""
    found = []
    for number, (teacher, net) in enumerate(zip(teachers.teachers, setup.teachers, strict=True)):
        asked = cache_request(config, net, teacher.name, setup.splits.train, views)
        cache = open_cache(config, asked, setup.task, number, setup.sample, num_fills, world)
        found += [cache] if cache else []
    return found


def score_teachers(
    setup: StudentSetup, teachers: LoadedTeachers, config: StudentConfig, world: World
) -> float | None:
    """Print the accuracies of the teachers on the test images, and warnings near chance.

    Returns:
        The accuracy in percent; of several teachers that of their average, None without one.
    """
    pairs = zip(teachers.teachers, setup.teachers, strict=True)
    nets = {
        f"{number} ({one.name})": net
        for number, (one, net) in enumerate(pairs, start=1)
        if has_logits(net)
    }
    if not nets:
        return None
    if len(nets) == len(setup.teachers) > 1 and config.combine_teachers != "each":
        task = setup.task
        average = AverageNetwork([*nets.values()], task.teacher_weights, task.combine)
        nets = {**nets, "average": average}
    accuracy = None
    test = setup.splits.test
    for name, net in nets.items():
        loader = test.test_loader(world.device, world.shard)
        accuracy = score(net, loader.epoch(1), world).acc
        who = "teacher" if len(setup.teachers) == 1 else f"teacher {name}"
        world.say(f"{who}: {accuracy:.2f} % on the {test.test_part} images")
        for warning in chance_warnings(accuracy, test):
            world.say(warning)
    return accuracy if len(setup.teachers) == 1 or "average" in nets else None

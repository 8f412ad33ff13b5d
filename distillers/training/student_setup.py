"""Build a student's run: the student, its losses, and the caches of its teachers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from distillers import data
from distillers.checkpoints.card import create_card
from distillers.checkpoints.input_adapter import with_normalization
from distillers.config.data import NO_DATASET, NumViews
from distillers.config.student import StudentConfig
from distillers.data.loaders.views import resolve_views
from distillers.data.source import DataSource
from distillers.distillation.build import distil
from distillers.distillation.cache.key import network_key
from distillers.distillation.cache.loader import StoredOutputs
from distillers.distillation.cache.pack import Pack, views_of_pack
from distillers.distillation.cache.pack_teacher import close_pack_networks
from distillers.distillation.cache.request import cache_request, open_cache
from distillers.distillation.cache.teacher_cache import TeacherCache
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.features.backbone import has_logits
from distillers.models.fake_quantize import fake_quantize_layers
from distillers.training import run_setup
from distillers.training.class_weight import class_weight_options
from distillers.training.ddp import convert_sync_batchnorm
from distillers.training.images import Splits, split_images
from distillers.training.probe import Agreement, Probe, embed
from distillers.training.teachers import LoadedTeachers, prepare


class StudentSetup(NamedTuple):
    """A student that is ready to train.

    Attributes:
        task: the student and its losses, on the device.
        teachers: the teachers, which take the same images as the student.
        splits: the images, normalized for the student.
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
    embeddings = embed(task.teacher, task.teacher_taps, loader, world)
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
    """Build the student and its losses; the training images get the order of the pack, if any.

    Raises:
        InputError: if the networks do not fit the data or the losses.
    """
    classes = source.num_classes if config.student_head == "classes" else 0
    student, source = run_setup.build_network(config, source, classes, world)
    splits = split_images(source, config)
    if pack:
        splits = splits._replace(train=pack.align(splits.train))
    sample = source.sample(world.device)
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
    close_pack_networks(nets)
    if config.sync_bn:
        for name, loss in task.losses.items():
            task.losses[name] = convert_sync_batchnorm(loss, world)
    if config.qat:  # last, because taps are found by the classes of layers
        num_layers = fake_quantize_layers(student)
        world.say(f"{num_layers} layers of the student simulate int8 in training (--qat)")
    return StudentSetup(task, nets, splits, sample)


def choose_views(config: StudentConfig, pack: Pack | None, source: DataSource) -> NumViews | None:
    """Return the number of fixed views of each image; None if each epoch has new ones.

    Raises:
        InputError: if the images or the pack have fewer.
    """
    if pack:
        return views_of_pack(config.views, pack, source)
    return resolve_views(config.views, config.teacher_cache is not None, source)


def open_stored_outputs(
    config: StudentConfig,
    teachers: LoadedTeachers,
    setup: StudentSetup,
    views: NumViews | None,
    pack: Pack | None,
    world: World,
) -> Sequence[StoredOutputs]:
    """Return the pack or the caches that a run reads instead of running its teachers.

    Raises:
        InputError: if a pack lacks what the losses read or is another teacher's, or there are
            several teachers.
    """
    if pack:
        if len(setup.teachers) > 1:
            raise InputError("a pack holds the outputs of one teacher; give --path_t once.")
        if config.pack_t is None:
            pack.check_teacher(network_key(setup.teachers[0]))
        pack.check_reads([f"teacher_{kind}" for kind in setup.task.frozen.extractor.kinds])
        world.say(f"teacher outputs: those of the pack {pack.folder}")
        return [pack]
    if config.teacher_cache is None or views is None:
        return []
    num_fills = config.epochs + setup.task.warmup_epochs
    return open_caches(config, teachers, setup, views, num_fills, world)


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


def create_student_card(
    config: StudentConfig,
    setup: StudentSetup,
    distilled: dict[str, Any],
    probe: Probe | Agreement | None,
) -> dict[str, Any]:
    """Return the card of the student, with its teachers and losses as `distilled`."""
    card = create_card(config.model_s, setup.splits.test, channels_last=config.channels_last)
    if config.student_head == "none":
        card |= {"num_classes": 0, "class_names": None}
    return {**card, "distilled": {**distilled, **({"probe": probe.kind} if probe else {})}}

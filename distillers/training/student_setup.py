"""From the flags of a student to its teacher and its task."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distillers.checkpoints.initial import build_initial, check_forward
from distillers.checkpoints.input_adapter import adapt_input, check_classes, with_normalization
from distillers.checkpoints.load import best_checkpoint, load
from distillers.config.flags import as_json_types
from distillers.config.student import StudentConfig
from distillers.data.source import DataSource
from distillers.distillation import loss_weights as weights
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from distillers.files import sha256
from distillers.training import ddp as parallel
from distillers.training import runner as run


class Teacher(NamedTuple):
    """The network to learn from, and how much of what.

    Attributes:
        path: its checkpoint.
        net: as it was saved.
        card: of its checkpoint.
        name: of its architecture.
        chosen: the weights of the losses.
        options: of the losses.
    """

    path: Path
    net: nn.Module
    card: dict[str, Any]
    name: str
    chosen: weights.Weights
    options: dict[str, dict[str, Any]]


class Made(NamedTuple):
    """A student that is ready to learn.

    Attributes:
        task: the student and its losses, on the device.
        teacher: as it gets the images of `source`.
        source: the data set, normalised as the student wants it.
        kept: the same without the images that are held out.
        sample: (n, c, h, w), a few images as the networks see them.
    """

    task: Distillation
    teacher: nn.Module
    source: DataSource
    kept: DataSource
    sample: Tensor


def teacher_of(config: StudentConfig, source: DataSource) -> Teacher:
    """The teacher in --path_t, and the losses that its name may decide on.

    Raises:
        InputError: when it cannot be built, or does not fit the data set or the losses.
    """
    assert config.path_t is not None  # config.check refuses None
    path = best_checkpoint(Path(config.path_t))
    loaded = load(
        path,
        model=config.model_t,
        num_classes=source.num_classes,
        image_size=source.image_size,
        programs=False,
    )
    net, card, name = loaded.net, loaded.card, loaded.card["model"]
    check_classes(card, source, path)
    chosen = weights.choose(config, name)
    return Teacher(path, net, card, name, chosen, weights.options(config, chosen, name))


def made(config: StudentConfig, teacher: Teacher, source: DataSource, world: World) -> Made:
    """A student and its losses.

    Args:
        config: the flags.
        teacher: of `teacher_of`.
        source: the data set.
        world: the processes that train together.

    Raises:
        InputError: when the networks do not fit the data or the losses.
    """
    size = source.image_size
    initial = build_initial(
        config.model_s,
        config.pretrained,
        num_classes=source.num_classes,
        image_size=size,
        log=world.say,
    )
    source = with_normalization(source, initial.mean, initial.std)
    net = adapt_input(
        teacher.net, teacher.card, mean=source.mean, std=source.std, size=(size, size)
    )
    student = run.ready(initial.net, config, world)
    kept, _ = source.split(config.val_fraction, config.trial)
    sample = source.sample(world.device)
    check_forward(student, config.model_s, sample, source.num_classes)
    task = distil(
        student,
        net.to(world.device),
        teacher.chosen.terms(),
        images=sample,
        train_labels=kept.train_labels.to(world.device),
        batch_size=run.batch_of(config, world),
        options=teacher.options,
        student_taps=config.taps_s,
        teacher_taps=config.taps_t,
    )
    if config.sync_bn:
        parallel.sync_losses(task.losses, world)
    return Made(task, net, source, kept, sample)


def origin(config: StudentConfig, teacher: Teacher, accuracy: float | None) -> dict[str, Any]:
    """From what the student learned and how, for its checkpoint's card, in plain types.

    Args:
        config: the flags.
        teacher: of `teacher_of`.
        accuracy: of the teacher on the test images, in percent, where it is known.
    """
    settings = weights.settings(teacher.chosen, teacher.options)
    return {
        "teacher": teacher.name,
        "teacher_sha256": sha256(teacher.path),
        "teacher_accuracy": accuracy,
        "settings": as_json_types(settings),
        "departures": as_json_types(
            weights.departures(config, teacher.chosen, settings, teacher.name)
        ),
    }

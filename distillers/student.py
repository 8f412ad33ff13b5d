"""From the flags of a student to its teacher and its task."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from distillers import checkpoint, inputs, models, parallel, run, weights
from distillers.config_student import StudentConfig
from distillers.data.source import DataSource
from distillers.distillation import Distillation, distil
from distillers.distributed import World
from distillers.tap_rules import find_taps


class Teacher(NamedTuple):
    """The network to learn from, and how much of what.

    Attributes:
        net: as it gets the images of the data set.
        name: of its architecture.
        chosen: the weights of the losses.
        options: of the losses.
    """

    net: nn.Module
    name: str
    chosen: weights.Weights
    options: dict[str, dict[str, Any]]


def teacher_of(config: StudentConfig, source: DataSource) -> Teacher:
    """The teacher in --path_t, and the losses that its name may decide on.

    Raises:
        InputError: when it cannot be built, or does not fit the data set or the losses.
    """
    size = source.image_size
    assert config.path_t is not None  # config.check refuses None
    net, card = checkpoint.load_network(
        config.path_t, name=config.model_t, num_classes=source.num_classes, image_size=size
    )
    net = inputs.adapted(net, card, mean=source.mean, std=source.std, size=(size, size))
    name = checkpoint.name_of(config.path_t, card, config.model_t)
    chosen = weights.choose(config, name)
    return Teacher(net, name, chosen, weights.options(config, chosen, name))


def task_of(
    config: StudentConfig, teacher: Teacher, source: DataSource, sample: Tensor, world: World
) -> Distillation:
    """A new student and its losses, ready to learn in this process.

    Args:
        config: the flags.
        teacher: of `teacher_of`.
        source: the images that are trained on, without those that are held out.
        sample: (n, c, h, w), a few images as the networks see them, on the device of `world`.
        world: the processes that train together.

    Raises:
        InputError: when the networks do not fit the losses.
    """
    student = models.create(
        config.model_s, num_classes=source.num_classes, image_size=source.image_size
    )
    student = run.ready(student, config, world)
    task = distil(
        student,
        teacher.net.to(world.device),
        teacher.chosen.terms(),
        images=sample,
        train_labels=source.train_labels.to(world.device),
        batch_size=run.batch_of(config, world),
        options=teacher.options,
        student_taps=find_taps(student, sample, maps=config.taps_s),
        teacher_taps=find_taps(teacher.net, sample, maps=config.taps_t),
    )
    if config.sync_bn:
        parallel.sync_losses(task.losses, world)
    return task

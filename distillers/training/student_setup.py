"""The teacher and the task of a student, from its flags."""

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


class LoadedTeacher(NamedTuple):
    """A teacher, and the losses with which it teaches.

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


class StudentSetup(NamedTuple):
    """A student, ready to train.

    Attributes:
        task: the student and its losses, on the device.
        teacher: takes the same images as the student.
        splits: the images, normalised for the student.
        sample: (n, c, h, w), a few images as the networks see them.
    """

    task: Distillation
    teacher: nn.Module
    splits: run.Splits
    sample: Tensor


def load_teacher(config: StudentConfig, source: DataSource) -> LoadedTeacher:
    """Load the teacher of --path_t, and choose weights and options of the losses.

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
    return LoadedTeacher(path, net, card, name, chosen, weights.options(config, chosen, name))


def build_student(
    config: StudentConfig, teacher: LoadedTeacher, source: DataSource, world: World
) -> StudentSetup:
    """Build the student and its losses.

    Args:
        config: the flags.
        teacher: of `load_teacher`.
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
    student = run.to_device(initial.net, config, world)
    splits = run.split(source, config)
    sample = source.sample(world.device)
    check_forward(student, config.model_s, sample, source.num_classes)
    task = distil(
        student,
        net.to(world.device),
        teacher.chosen.terms(),
        images=sample,
        train_labels=splits.train.train_labels.to(world.device),
        batch_size=run.batch_size_per_process(config, world),
        options=teacher.options,
        student_taps=config.taps_s,
        teacher_taps=config.taps_t,
    )
    if config.sync_bn:
        parallel.sync_losses(task.losses, world)
    return StudentSetup(task, net, splits, sample)


def distillation_card(
    config: StudentConfig, teacher: LoadedTeacher, accuracy: float | None
) -> dict[str, Any]:
    """Describe the distillation for the card of the student's checkpoint, in JSON types.

    Args:
        config: the flags.
        teacher: of `load_teacher`.
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

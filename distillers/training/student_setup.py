"""Build a student's run from its flags: the teacher, then the student and its losses."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distillers import data
from distillers.checkpoints.initial import build_initial, check_forward
from distillers.checkpoints.input_adapter import adapt_input, check_classes, with_normalization
from distillers.checkpoints.load import Classifier, best_checkpoint, load
from distillers.config.flags import as_json_types
from distillers.config.student import StudentConfig
from distillers.data.source import DataSource
from distillers.distillation import loss_weights
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.files import sha256
from distillers.losses import wiring
from distillers.models.fake_quantize import fake_quantize_layers
from distillers.training import ddp, run_setup
from distillers.training.class_weight import class_weight_options
from distillers.training.images import Splits, split_images
from distillers.training.probe import Probe


class LoadedTeacher(NamedTuple):
    """A teacher, and the weights and options of the losses.

    Attributes:
        path: its checkpoint.
        classifier: the network as it was saved, and its card.
        weights: weights of the losses.
        options: options of the losses.
    """

    path: Path
    classifier: Classifier
    weights: loss_weights.Weights
    options: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Its architecture."""
        return self.classifier.card["model"]

    def card(self, config: StudentConfig, accuracy: float | None) -> dict[str, Any]:
        """Return the description of a distillation in the student's card, as JSON types."""
        settings = loss_weights.settings(self.weights, self.options)
        departures = loss_weights.departures(config, self.weights, settings, self.name)
        return {
            "teacher": self.name,
            "teacher_sha256": sha256(self.path),
            "teacher_accuracy": accuracy,
            "settings": as_json_types(settings),
            "departures": as_json_types(departures),
        }


def chance_warnings(accuracy: float, test: DataSource) -> list[str]:
    """Return a warning if a teacher is not clearly better than chance."""
    names, count = test.class_names, len(test.test_labels)
    chance = 1 / len(names)
    limit = chance + 3 * (chance * (1 - chance) / count) ** 0.5  # three standard deviations
    if accuracy / 100 > limit:
        return []
    lines = [
        f"WARNING: the teacher is no better than chance ({accuracy:.2f} % of {count} test images, "
        f"chance is {100 * chance:.2f} %): it may not be trained for these classes, or for images "
        "of this size and normalization."
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
        teacher: the teacher, which takes the same images as the student.
        splits: the images, normalised for the student.
        sample: (n, c, h, w), a few of these images on the device.
    """

    task: Distillation
    teacher: nn.Module
    splits: Splits
    sample: Tensor


def load_teacher(config: StudentConfig, source: DataSource) -> LoadedTeacher:
    """Load the teacher of --path_t, and choose the weights and options of the losses.

    Raises:
        InputError: if it cannot be loaded, or does not fit the data set or the losses.
    """
    assert config.path_t is not None  # config.check refuses None
    path = best_checkpoint(Path(config.path_t))
    classifier = load(
        path,
        model=config.model_t,
        num_classes=source.num_classes,
        image_size=source.image_size,
        programs=False,
    )
    check_classes(classifier.card, source, path)
    name = classifier.card["model"]
    weights = loss_weights.choose(config, name)
    if not bool((source.train_labels >= 0).any()):
        wiring.check_has_labels(weights.terms())
    return LoadedTeacher(path, classifier, weights, loss_weights.options(config, weights, name))


def choose_probe(
    config: StudentConfig, task: Distillation, splits: Splits, world: World
) -> Probe | None:
    """Return how the student is scored by its embeddings; None for its own classifier.

    Without --probe it is its own classifier, unless no loss trains that.

    Raises:
        InputError: if a loss deploys another network than the student.
    """
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
    return Probe(kind, bank, task.student_taps)


def build_student(
    config: StudentConfig, teacher: LoadedTeacher, source: DataSource, world: World
) -> StudentSetup:
    """Build the student and its losses.

    Raises:
        InputError: if the networks do not fit the data or the losses.
    """
    size = source.image_size
    initial = build_initial(
        config.model_s,
        config.pretrained,
        num_classes=source.num_classes,
        image_size=size,
        drop_path=config.drop_path,
        log=world.say,
    )
    source = with_normalization(source, initial.mean, initial.std)
    net, card = teacher.classifier.net, teacher.classifier.card
    net = adapt_input(net, card, mean=source.mean, std=source.std, size=(size, size))
    student = run_setup.to_device(initial.net, config, world)
    splits = split_images(source, config)
    sample = source.sample(world.device)
    check_forward(student, config.model_s, sample, source.num_classes)
    options = {**teacher.options}
    if weighting := class_weight_options(config, splits):
        if not teacher.weights.ce:
            raise InputError("--class_weight weights the loss with the labels, but --cls is 0.")
        options[config.label_loss] = {**options.get(config.label_loss, {}), **weighting}
    task = distil(
        student,
        net.to(world.device),
        teacher.weights.terms(),
        images=sample,
        train_labels=splits.train.train_labels.to(world.device),
        batch_size=run_setup.batch_size_per_process(config, world),
        options=options,
        student_taps=config.taps_s,
        teacher_taps=config.taps_t,
    )
    if config.sync_bn:
        ddp.sync_losses(task.losses, world)
    if config.qat:  # last, because taps are found by the classes of layers
        num_layers = fake_quantize_layers(student)
        world.say(f"{num_layers} layers of the student simulate int8 in training (--qat)")
    return StudentSetup(task, net, splits, sample)

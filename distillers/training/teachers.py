"""Load the teachers of a run, and give them the classes of the data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distillers.checkpoints.input_adapter import adapt_input, check_classes
from distillers.checkpoints.io import check_exists
from distillers.checkpoints.load import Classifier, best_checkpoint, file_bytes, load
from distillers.checkpoints.published import load_published
from distillers.checkpoints.shards import weights_sha256
from distillers.config.flags import as_json_types
from distillers.config.run_files import json_digest
from distillers.config.student import StudentConfig
from distillers.config.teachers import TeacherFlags
from distillers.data.fingerprint import hash_tensors
from distillers.data.source import DataSource
from distillers.distillation import loss_weights
from distillers.distillation.cache.key import cache_key, digest
from distillers.distillation.cache.pack import Pack
from distillers.distillation.cache.pack_teacher import check_losses, pack_card, pack_network
from distillers.distillation.cache.request import cache_folder
from distillers.distillation.heads.attach import as_backbone, describe, embed, fit
from distillers.distillation.heads.linear import linear_layer
from distillers.distillation.heads.prepare import FITTED, prepare_teacher, standardized
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.files import file_name
from distillers.losses import wiring
from distillers.models.precision import ReducedPrecision
from distillers.progress import counted
from distillers.training.evaluate import is_near_chance
from distillers.training.head_file import read_head, write_head
from distillers.training.memory import check_fits, check_published_fits


class LoadedTeacher(NamedTuple):
    """A teacher as it was loaded.

    Attributes:
        flags: of the teacher.
        classifier: the network and its card.
        digest: SHA-256 of its file, or a hash of its published weights.
    """

    flags: TeacherFlags
    classifier: Classifier
    digest: str

    @property
    def name(self) -> str:
        """Its architecture."""
        return self.classifier.card["model"]


class LoadedTeachers(NamedTuple):
    """The teachers of a run, and the weights and options of the losses."""

    teachers: tuple[LoadedTeacher, ...]
    weights: loss_weights.Weights
    options: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Their architectures, joined by "+"."""
        return "+".join(teacher.name for teacher in self.teachers)

    @property
    def digest(self) -> str:
        """Their digests, joined by "+"."""
        return "+".join(teacher.digest for teacher in self.teachers)

    @property
    def names(self) -> str:
        """Their files or names, joined by "+"."""
        return "+".join(teacher.flags.path for teacher in self.teachers)

    def run_folder(self, config: StudentConfig) -> Path:
        """Return the folder of a student's run, which these weights and teachers name."""
        weights = self.weights
        return config.folder(weights.ce, weights.kd, weights.method, self.name)

    def known_accuracy(self, dataset: str) -> float | None:
        """Return the accuracy in the card of a single teacher of a data set, if it is there."""
        card = self.teachers[0].classifier.card
        keeps = len(self.teachers) == 1 and self.teachers[0].flags.keeps_classes
        return card.get("accuracy") if keeps and card.get("dataset") == dataset else None

    def card(self, config: StudentConfig, accuracy: float | None) -> dict[str, Any]:
        """Return the description of a distillation in the student's card, as JSON types.

        `accuracy` is that of the teachers on the test images, in percent, if known.
        """
        settings = loss_weights.settings(self.weights, self.options)
        departures = loss_weights.departures(config, self.weights, settings, self.name)
        return {
            "teacher": self.name,
            "teacher_sha256": self.digest,
            "teacher_accuracy": accuracy,
            "settings": as_json_types(settings),
            "departures": as_json_types(departures),
        }


def check_exist(config: StudentConfig) -> None:
    """Check that the files of the teachers exist, before data is fetched.

    Raises:
        InputError: naming the first that does not.
    """
    for one in config.teachers():
        if not one.is_named and not one.is_pack:
            check_exists(best_checkpoint(Path(one.path)))
        if one.class_map is not None and not Path(one.class_map).is_file():
            raise InputError(f"--class_map {one.class_map}: there is no such file.")


def load_teachers(
    config: StudentConfig, source: DataSource, world: World, pack: Pack | None = None
) -> LoadedTeachers:
    """Load the teachers, and choose the weights and options of the losses.

    `pack` has the teacher's outputs; it is the teacher if --path_t names it.

    Raises:
        InputError: if one cannot be loaded, or does not fit the memory, the data set or the losses.
    """
    if pack and config.pack_t is not None:
        network = Classifier(pack_network(pack), pack_card(pack))
        found = (LoadedTeacher(config.teachers()[0], network, json_digest(pack.manifest)),)
    else:
        found = tuple(_load(one, config, source, world) for one in config.teachers())
    name = "+".join(teacher.name for teacher in found)
    weights = loss_weights.choose(config, name)
    if pack and config.pack_t is not None:
        check_losses(pack, weights.terms())
    if not bool((source.train_labels >= 0).any()):
        wiring.check_has_labels(weights.terms())
    return LoadedTeachers(found, weights, loss_weights.options(config, weights, name))


def prepare(
    teacher: LoadedTeacher,
    config: StudentConfig,
    source: DataSource,
    sample: Tensor,
    world: World,
) -> nn.Module:
    """Return a teacher on the device that takes the student's images, with the data set's classes.

    `source` has the training images with the student's normalization, and `sample` (n, c, h, w) is
    a few of them on the device. The first process fits a head.

    Raises:
        InputError: if its classes or embeddings do not fit.
    """
    flags, (net, card) = teacher.flags, (teacher.classifier.net, teacher.classifier.card)
    if flags.is_pack:
        return net.to(world.device)
    if config.teacher_precision == "bfloat16":
        net = ReducedPrecision(net, torch.bfloat16)
    if config.teacher_size is not None:
        card = {**card, "image_size": config.teacher_size}
    net = adapt_input(net, card, source).to(world.device)
    if flags.is_named and not card.get("mean"):
        world.say(f"{teacher.name} does not say how images are normalized: as for the student")
    head: Any = flags.head
    if config.standardize_teachers:
        batches = source.train_eval_loader(world.device)
        net = standardized(
            as_backbone(net, sample), counted(batches.epoch(1), "PHI-S", len(batches))
        )
    if head in FITTED:
        head = _fitted(as_backbone(net, sample), teacher, config, source, world)
    teacher_classes: Any = card.get("class_names")
    try:
        return prepare_teacher(
            net,
            sample,
            head=head,
            class_map=flags.class_map,
            class_names=source.class_names,
            teacher_classes=teacher_classes,
            temperature=config.teacher_temperature,
            say=lambda line: world.say(f"{teacher.name}: {line}"),
        ).to(world.device)
    except InputError as error:
        raise InputError(f"{flags.path}: {error}") from error


def _load(
    flags: TeacherFlags, config: StudentConfig, source: DataSource, world: World
) -> LoadedTeacher:
    per_process = world.size if config.shard else 1
    width = 2 if config.teacher_precision == "bfloat16" else 4
    if flags.is_named:
        check_published_fits(flags.path, world.device, width / per_process)
        found = load_published(
            flags.path, num_classes=source.num_classes, image_size=source.image_size
        )
        identity = hash_tensors(*found.state_dict().values())
        path = Path(flags.path)
    else:
        path = best_checkpoint(Path(flags.path))
        if path.exists():
            check_fits(str(path), file_bytes(path), torch.device("cpu"))
        found = load(path, model=flags.model, image_size=source.image_size, programs=False)
        identity = weights_sha256(path)
    classes = found.card["num_classes"]
    if flags.keeps_classes:
        if classes != source.num_classes:
            raise InputError(
                f"{path} has {classes or 'no'} classes, the data set has {source.num_classes}. "
                "Give the teacher a head with --teacher_head fit, none for losses that read no "
                "logits, or --class_map FILE."
            )
        check_classes(found.card, source, path)
    num_bytes = width * sum(p.numel() for p in found.parameters())
    if world.device.type != "cpu":
        check_fits(flags.path, num_bytes // per_process, world.device)
    return LoadedTeacher(flags, found, identity)


def _fitted(
    backbone: nn.Module,
    teacher: LoadedTeacher,
    config: StudentConfig,
    source: DataSource,
    world: World,
) -> nn.Linear:
    """Return a linear head that is fitted to the labelled training images, or read from its file.

    The file lies in the folder of the teacher's cached outputs; its name has a hash of the teacher,
    the images, their labels, the class names in their order, and the method.
    """
    key = cache_key(backbone, teacher.name, source)
    key |= {"head": teacher.flags.head, "classes": list(source.class_names)}
    key["prepared"] = [source.shorter_side, list(source.mean), list(source.std)]
    named = f"head-{teacher.name}-{source.name}-{digest(key)}.safetensors"
    path = cache_folder(config) / file_name(named)

    def compute() -> dict[str, Any]:
        known = read_head(path) if path.exists() else None
        if known is not None:
            return known
        batches = source.train_eval_loader(world.device)
        found = embed(backbone, _labelled(batches))
        head = fit(*found, source.num_classes, teacher.flags.head)
        layer = head.module()
        held = {"weight": layer.weight.detach().cpu(), "bias": layer.bias.detach().cpu()}
        facts = {"line": describe(head, len(found[1])), "accuracy": head.accuracy}
        write_head(path, held, facts, source.class_names)
        return {**held, **facts}

    found = world.run_on_rank0(compute)
    world.say(found["line"])
    accuracy, classes = 100 * found["accuracy"], source.num_classes
    if is_near_chance(accuracy, len(source.train_labels), classes):
        world.say(
            f"WARNING: the teacher's head is no better than chance ({accuracy:.2f} %, chance is "
            f"{100 / classes:.2f} %): its embeddings do not separate these classes, or the images "
            "have another size or normalization than it was trained with."
        )
    return linear_layer(found["weight"], found["bias"]).to(world.device)


def _labelled(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images and labels of the labelled images of each batch."""
    for batch in counted(loader.epoch(1), "teacher head", len(loader)):
        kept = batch.labels >= 0
        if bool(kept.all()):
            yield batch.images, batch.labels
        elif bool(kept.any()):
            yield batch.images[kept], batch.labels[kept]

"""`distillers transfer`, the documented transfer_student.py."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillers.config.parsing import parse
from distillers.config.scoring import describe_run_flags, read_run_flags
from distillers.config.transfer import SIZE, TransferConfig
from distillers.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from distillers.checkpoints.load import Classifier
    from distillers.data.source import DataSource
    from distillers.distributed.world import World


def main(args: Sequence[str]) -> None:
    """Train a network's new classifier, or all of it, on another data set."""
    config = parse(TransferConfig, args, "transfer_student.py")
    config.check()

    from distillers.cli import launch

    launch.run(config, "transfer", args, lambda world: work(config, world))


def work(config: TransferConfig, world: "World") -> None:
    """Train the network in one process."""
    from distillers.checkpoints.card import create_card
    from distillers.checkpoints.input_adapter import with_normalization
    from distillers.checkpoints.load import best_checkpoint, load
    from distillers.checkpoints.shards import weights_sha256
    from distillers.distillation import recipes
    from distillers.losses import CE
    from distillers.training import run_setup
    from distillers.training.class_weight import class_weight_options
    from distillers.training.images import split_images
    from distillers.training.precomputed import PrecomputedEmbeddings
    from distillers.training.run_dir import check_same_source, resolve_run_dir
    from distillers.training.runner import train
    from distillers.training.transfer import Transfer, classifier_of, replace_classifier

    assert config.path_s is not None  # config.check refuses None
    path = best_checkpoint(Path(config.path_s))
    loaded = load(path, model=config.model_s, teacher=config.path_t, programs=False)
    name = loaded.card["model"]
    if taken := config.run_flags(read_run_flags(path)):
        world.say(describe_run_flags(taken))
        config = replace(config, **taken)
    options = replace(config.decode_options(), image_size=_image_size(config, loaded.card))
    images = run_setup.load_data(config, world, options)
    source = with_normalization(images, loaded.card.get("mean"), loaded.card.get("std"))
    config = config.resolved(recipes.learning_rate(name, SIZE))
    run_dir = resolve_run_dir(config.folder(name), name, config, world)
    check_same_source(run_dir, ("transferred", "sha256"), path)
    run_setup.seed_everything(config)
    net = run_setup.to_device(_trainable(loaded, config, source), config, world)
    net = net.to(memory_format=run_setup.memory_format(config))  # before features are computed
    head = classifier_of(net, source.sample(world.device))
    replace_classifier(net, head, source.num_classes)
    splits = split_images(source, config)
    task = Transfer(
        net,
        head,
        CE(**class_weight_options(config, splits)),
        finetune=config.finetune,
        update_bn_stats=config.update_bn_stats,
        precompute_features=config.precompute_features,
    )
    if config.precompute_features:
        splits = split_images(PrecomputedEmbeddings(source, task.embed), config)
    run_setup.print_start(f"{name} of {path}", config, run_dir.folder, world)
    world.say(_describe(config, source))
    card = create_card(name, source, channels_last=config.channels_last)
    card["transferred"] = {"path": str(path), "sha256": weights_sha256(path)}
    train(config, task, splits, run_dir, card, world)
    world.say(f"saved {run_dir.best}")


def _image_size(config: TransferConfig, card: dict[str, Any]) -> int | None:
    """Return the image size in pixels; None for the data set's default.

    Raises:
        InputError: if the network has weights of other shapes for images of that size.
    """
    from distillers.checkpoints.shapes import shapes_of
    from distillers.models.registry import SMALL_IMAGES

    name = card["model"]
    trained = card.get("image_size") or (SIZE if name in SMALL_IMAGES else None)
    size = SIZE if config.protocol == "public" else config.image_size or trained
    if trained and size and shapes_of(name, trained, 10) != shapes_of(name, size, 10):
        raise InputError(
            f"{name} was trained on images of {trained} x {trained}; its weights do not fit "
            f"{size} x {size}"
            + (", the only size of --protocol public." if config.update_bn_stats else ".")
        )
    return size


def _trainable(loaded: "Classifier", config: TransferConfig, source: "DataSource") -> "nn.Module":
    """Return the network with a classifier and the stochastic depth of --drop_path, if given.

    Raises:
        InputError: if it can have no stochastic depth.
    """
    from distillers.checkpoints.initial import add_classifier, with_drop_path

    net, card, num_classes = loaded.net, loaded.card, source.num_classes
    size = card.get("image_size") or SIZE
    if not card["num_classes"]:
        net = add_classifier(net, card["model"], num_classes, size)
    if config.drop_path is None:
        return net
    if card.get("deploy"):
        raise InputError(
            f"{config.path_s} holds a {card['model']} with what {card['deploy']['name']} adds to "
            "it, which has no stochastic depth; leave out --drop_path."
        )
    classes = card["num_classes"] or num_classes
    return with_drop_path(net, card["model"], classes, size, config.drop_path)


def _describe(config: TransferConfig, source: "DataSource") -> str:
    """Return a line about what is trained and how."""
    if config.finetune:
        trained = "training all weights"
    elif config.precompute_features:
        trained = "training the classifier on precomputed features"
    else:
        trained = "training the classifier"
    statistics = "updated, as published" if config.update_bn_stats else "frozen"
    return (
        f"{trained}; BatchNorm statistics {statistics}; "
        f"images {source.image_size} x {source.image_size}"
    )

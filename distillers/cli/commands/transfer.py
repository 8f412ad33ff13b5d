"""`distillers transfer`, the documented transfer_student.py."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillers.config.parsing import parse
from distillers.config.transfer import SIZE, TransferConfig
from distillers.errors import InputError
from distillers.files import sha256

if TYPE_CHECKING:
    from distillers.data.source import DataSource
    from distillers.distributed.world import World


def main(args: Sequence[str]) -> None:
    """Train a network's new classifier, or all of it, on another data set."""
    config = parse(TransferConfig, args, "transfer_student.py")
    config.check()

    from distillers.cli import launch

    launch.run(config, "transfer", args, lambda world: work(config, world))


def work(config: TransferConfig, world: "World") -> None:
    """Train it in one of the processes that do."""
    import torch

    from distillers.checkpoints.card import create_card
    from distillers.checkpoints.input_adapter import with_normalization
    from distillers.checkpoints.load import best_checkpoint, load
    from distillers.distillation import recipes
    from distillers.losses import CE
    from distillers.training import runner as run
    from distillers.training.embeddings import Embedded
    from distillers.training.run_dir import check_same_source, resolve_run_dir
    from distillers.training.transfer import Transfer, classifier_of, replace_classifier

    assert config.path_s is not None  # config.check refuses None
    path = best_checkpoint(Path(config.path_s))
    loaded = load(path, model=config.model_s, teacher=config.path_t, programs=False)
    net, card, name = loaded.net, loaded.card, loaded.card["model"]
    reading = replace(config.decode_options(), image_size=_side(config, card, name))
    images = run.load_data(config, world, reading)
    source = with_normalization(images, card.get("mean"), card.get("std"))
    config = config.resolved(recipes.learning_rate(name, SIZE))
    place = resolve_run_dir(config.folder(name), name, config, world)
    check_same_source(place, ("transferred", "sha256"), path)
    run.seed_everything(config)
    order = torch.channels_last if config.channels_last else torch.contiguous_format
    net = run.to_device(net, config, world).to(memory_format=order)  # before anything is embedded
    head = classifier_of(net, source.sample(world.device))
    replace_classifier(net, head, source.num_classes)
    modes = {
        "finetune": config.finetune,
        "update_bn_stats": config.update_bn_stats,
        "precompute_features": config.precompute_features,
    }
    task = Transfer(net, head, CE(), **modes)
    given = Embedded(source, task.embed) if config.precompute_features else source
    which = f"{name} of {path} on {config.dataset}"
    world.say(f"{which}, {run.describe_devices(world)}, into {place.folder}")
    world.say(_rules(config, source))
    new_card = create_card(name, source, channels_last=config.channels_last)
    new_card["transferred"] = {"path": str(path), "sha256": sha256(path)}
    run.train(config, task, run.split(given, config), place, new_card, world)
    world.say(f"saved {place.best}")


def _side(config: TransferConfig, card: dict[str, Any], name: str) -> int | None:
    """Pixels on a side of the images that the network gets; None for those of the data set.

    Raises:
        InputError: when the network has other weights for images of that size.
    """
    from distillers.checkpoints.architecture import shapes_of
    from distillers.models.registry import SMALL_IMAGES

    own = card.get("image_size") or (SIZE if name in SMALL_IMAGES else None)
    side = SIZE if config.protocol == "public" else config.image_size or own
    if own and side and shapes_of(name, own, 10) != shapes_of(name, side, 10):
        raise InputError(
            f"{name} has other weights for images of {side} x {side} than for its own, "
            f"{own} x {own}"
            + ("; --protocol public has only those." if config.update_bn_stats else ".")
        )
    return side


def _rules(config: TransferConfig, source: "DataSource") -> str:
    """What is done, in a line."""
    if config.finetune:
        what = "all weights learn"
    else:
        what = "the classifier finetune" + (
            ", on embeddings computed once" if config.precompute_features else ""
        )
    moving = "drift, as published" if config.update_bn_stats else "stay"
    return (
        f"{what}; BatchNorm statistics {moving}; images {source.image_size} x {source.image_size}, "
        f"rate {config.learning_rate:g}, weight decay {config.weight_decay:g}"
    )

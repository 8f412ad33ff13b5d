"""Cards: descriptions of the network in a checkpoint or an exported file."""

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, cast

from distillers import __version__
from distillers.checkpoints.io import FORMAT
from distillers.checkpoints.load import Classifier
from distillers.data.fingerprint import hash_tensors
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.models.profile import count_macs, count_parameters


def create_card(model: str, source: DataSource, *, channels_last: bool) -> dict[str, Any]:
    """Return the card of a network in training: all that is needed to build it and to feed it."""
    return {
        "format": FORMAT,
        "model": model,
        "num_classes": source.num_classes,
        "image_size": source.image_size,
        "shorter_side": source.shorter_side,
        "class_names": list(source.class_names),
        "data": hash_tensors(source.train_labels),
        "dataset": source.name,
        "mean": list(source.mean),
        "std": list(source.std),
        "channels_last": channels_last,
    }


def complete_card(classifier: Classifier, source: DataSource | None = None) -> dict[str, Any]:
    """Return the card of an exported file: preprocessing, classes, origin and size.

    Raises:
        InputError: if the normalization or the size of the images is unknown.
    """
    card = {"format": FORMAT, **classifier.card}
    if source is not None:
        card.setdefault("dataset", source.name)
        card.setdefault("mean", list(source.mean))
        card.setdefault("std", list(source.std))
        if card.setdefault("image_size", source.image_size) == source.image_size:
            card.setdefault("shorter_side", source.shorter_side)
        if source.name == card["dataset"]:
            card.setdefault("class_names", list(source.class_names))
    missing = [key for key in ("mean", "std", "image_size") if not card.get(key)]
    if missing:
        raise InputError(
            f"the card of the network has no {', '.join(missing)}; name its data set with "
            "--dataset."
        )
    card["parameters"] = count_parameters(classifier)
    card["macs"] = count_macs(classifier, card["image_size"])
    card["distillers"] = __version__
    return {key: _without_folders(value) for key, value in card.items() if value is not None}


def _without_folders(value: object) -> object:
    """Replace absolute paths, which an exported file must not hold, by names of files."""
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    is_path = isinstance(value, str) and (PurePosixPath(value).is_absolute() or "\\" in value)
    return PureWindowsPath(cast(str, value)).name if is_path else value

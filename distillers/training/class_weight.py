"""Weights of classes from --class_weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distillers.config.train import TrainConfig
from distillers.config.yaml_text import read_text_mapping
from distillers.data.datasets.listing import first_few
from distillers.errors import InputError
from distillers.training.images import Splits
from distillers.training.run_dir import RunDir

BALANCED = "balanced"
MAX_WEIGHT = 1e12  # as in a card


def class_weight_options(config: TrainConfig, splits: Splits) -> dict[str, Any]:
    """Return the option of the loss with the labels that --class_weight sets; {} without the flag.

    "balanced" is n / (k n_c) for the n_c of n labelled images in class c, with k classes that have
    images (King and Zeng, "Logistic Regression in Rare Events Data", 2001), as in scikit-learn.

    Raises:
        InputError: if the file cannot be read or is not of these classes.
    """
    if config.class_weight is None:
        return {}
    names = splits.train.class_names
    if config.class_weight != BALANCED:
        return {"class_weight": _from_file(config.class_weight, names)}
    labels = splits.train.train_labels
    counts = torch.bincount(labels[labels >= 0], minlength=len(names)).double()
    weights = counts.sum() / (counts > 0).sum() / counts
    return {"class_weight": tuple(weights.where(counts > 0, 1.0).tolist())}


def check_same_weights(run_dir: RunDir, weights: Sequence[float] | None) -> None:
    """Refuse to resume a run with other weights of the classes.

    Raises:
        InputError: if the run began with others.
    """
    if run_dir.state is None:
        return
    known = run_dir.state.card.get("class_weight")
    if known != (list(weights) if weights else None):
        raise InputError(
            f"{run_dir.folder} began with other weights of the classes than --class_weight has "
            "now. Restore the file, or start anew with --overwrite instead of --resume."
        )


def _from_file(path: str, class_names: Sequence[str]) -> tuple[float, ...]:
    given = read_text_mapping(path, f"--class_weight {path}")
    unknown, missing = given.keys() - set(class_names), set(class_names) - given.keys()
    if unknown or missing:
        parts = [("has classes that the data set has not", unknown), ("lacks the classes", missing)]
        problems = [f"{what}: {first_few(sorted(who))}" for what, who in parts if who]
        raise InputError(f"--class_weight {path} {'; it '.join(problems)}.")
    return tuple(_number(path, given, name) for name in class_names)


def _number(path: str, given: Mapping[str, str], name: str) -> float:
    try:
        value = float(given[name])
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_WEIGHT:
        raise InputError(
            f"--class_weight {path}: {name} is {given[name]!r}; it must be greater than 0, and at "
            f"most {MAX_WEIGHT:g}."
        )
    return value

"""`distillers predict`: predict the classes of pictures without labels."""

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distillers.config.flags import AT_LEAST_1, Fact, check_ranges, output_paths
from distillers.config.parsing import parse
from distillers.config.scoring import DeviceConfig
from distillers.errors import InputError, escape
from distillers.files import write_json, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from distillers.checkpoints.load import Classifier


@dataclass(frozen=True, kw_only=True)
class PredictConfig(DeviceConfig):
    """Predict the classes of pictures without labels."""

    path: tyro.conf.Positional[str]
    """Checkpoint, run folder (its best checkpoint is used), or exported file."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders (with all folders below), or patterns such as "photos/*.jpg"."""
    top: Annotated[int, AT_LEAST_1] = 1
    """Number of classes to print for each image, the most probable first."""
    batch_size: Annotated[int, AT_LEAST_1] = 32
    """Images per forward."""
    model: str | None = None
    """Architecture of the network, if the file does not name it."""
    json: Annotated[str | None, Fact.PATH] = None
    """File for the probabilities of all classes as JSON."""
    csv: Annotated[str | None, Fact.PATH] = None
    """File for a row for each image: path, prediction, probability of each class."""


def main(args: Sequence[str]) -> None:
    """Print a line for each image: path, classes, and their probabilities in percent."""
    config = parse(PredictConfig, args, "distillers predict")
    check_ranges(config)
    outputs = output_paths(config, ("json", "csv"))
    if not config.images:
        raise InputError("no image was given; name files, folders or patterns after the network.")
    paths = list(dict.fromkeys(found for given in config.images for found in find_images(given)))

    from distillers.checkpoints.load import load
    from distillers.distributed.rendezvous import device_of

    classifier = load(config.path, model=config.model)
    classifier.check_preparation()
    device = device_of(config.devices())
    classifier = classifier.to(device)
    names = _class_names(classifier)
    bad: list[str] = []
    rows: list[tuple[str, int, list[float]]] = []
    for start in range(0, len(paths), config.batch_size):
        batch = paths[start : start + config.batch_size]
        for path, best, chances in _predict(classifier, batch, device, bad):
            shown = [f"{names[n]}  {100 * chances[n]:.1f} %" for n in best[: config.top]]
            print(f"{escape(path)}  {'  '.join(shown)}", flush=True)
            rows.append((path, best[0], chances))
    _write(outputs, names, rows)
    if bad:
        raise InputError(
            f"{len(bad)} of {len(paths)} images could not be read; the others are above."
        )


def find_images(given: str) -> Iterator[str]:
    """Yield the image files that a word of the command line names, sorted within a folder.

    Raises:
        InputError: if there is none, or an image in a folder has a format that is not read.
    """
    from distillers.data.datasets.listing import list_images

    path = Path(given).expanduser()
    found = [path] if path.exists() else [Path(each) for each in sorted(glob.glob(str(path)))]
    if not found:
        raise InputError(f"{given} names no file.")
    for each in found:
        if each.is_dir():
            inside = list_images(each)
            yield from (inside[number] for number in range(len(inside)))
        else:
            yield str(each)


def _class_names(classifier: "Classifier") -> list[str]:
    """Return the names of the classes by the card, else their numbers."""
    known, count = classifier.card.get("class_names"), classifier.card.get("num_classes")
    if known:
        return [str(name) for name in known]
    if not count:
        raise InputError(
            f"{classifier.card.get('model')} has no classifier, or its card no num_classes, so it "
            "predicts no class; `distillers transfer` trains a classifier."
        )
    print("the file does not name its classes; they are given by number", file=sys.stderr)
    return [str(number) for number in range(count)]


def _predict(
    classifier: "Classifier", paths: Sequence[str], device: Any, bad: list[str]
) -> Iterator[tuple[str, list[int], list[float]]]:
    """Yield path, classes by rank, and probabilities; add unreadable paths to `bad`."""
    import torch

    from distillers.data.loaders.decode import read

    inputs: list[Tensor] = []
    names = []
    for path in paths:
        try:
            notes: list[str] = []
            inputs.append(classifier.preprocess(read(path, notes).to(device)))
            names.append(path)
            for note in notes:
                print(f"damaged, but used: {escape(note)}", file=sys.stderr)
        except InputError as error:
            bad.append(path)
            print(f"error: {escape(str(error))}", file=sys.stderr, flush=True)
    if not inputs:
        return
    with torch.inference_mode():
        logits = classifier(torch.cat(inputs)).float().cpu()
    if not bool(logits.isfinite().all()):
        bad_row = int((~logits.isfinite().all(1)).nonzero()[0])
        raise InputError(
            f"the network's outputs are not finite for {names[bad_row]}; its weights or its number "
            "format are broken."
        )
    chances = logits.double().softmax(1)
    ranked = logits.topk(logits.shape[1]).indices
    yield from zip(names, ranked.tolist(), chances.tolist(), strict=True)


def _write(
    outputs: dict[str, Path], names: list[str], rows: list[tuple[str, int, list[float]]]
) -> None:
    """Write the files of --json and --csv."""
    import pandas as pd

    if "json" in outputs:
        found = []
        for path, best, chances in rows:
            named = dict(zip(names, chances, strict=True))
            found.append({"path": path, "prediction": names[best], "probabilities": named})
        write_json(outputs["json"], found)
    if "csv" in outputs:
        columns = ["path", "prediction", *(f"p({name})" for name in names)]
        lines = [(path, names[best], *chances) for path, best, chances in rows]
        table = pd.DataFrame(lines, columns=columns)
        write_text(outputs["csv"], table.to_csv(index=False, lineterminator="\n"))
    for path in outputs.values():
        print(f"saved {path}")

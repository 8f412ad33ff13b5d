"""`distillers audit`: examine teachers before they teach."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from distillers.config.flags import Fact
from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig
from distillers.errors import InputError
from distillers.files import write_atomically, write_json

if TYPE_CHECKING:
    import torch

    from distillers.data.source import DataSource
    from distillers.training.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class AuditConfig(ScoringConfig):
    """Examine teachers before they teach: accuracy, calibration, agreement, labels they doubt."""

    teachers: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints, run folders or exported files, one or more."""
    model: str | None = None
    """Architecture of the teachers, if their files do not name it."""
    split: Literal["test", "train"] = "test"
    """Images to examine. A teacher that was trained on the training images hardly doubts their
    labels."""
    out: Annotated[str, Fact.PATH] = "audit"
    """Folder for audit.html and audit.json, which has the same numbers."""


def main(args: Sequence[str]) -> None:
    """Write a page with the figures of the teachers, and print the main ones."""
    config = parse(AuditConfig, args, "distillers audit")
    config.check()
    if not config.teachers:
        raise InputError("no teacher was given; name its checkpoint or run folder.")
    out = Path(config.out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, a file; name a folder.")

    from distillers.distributed.rendezvous import device_of
    from distillers.report.audit import audit, pictures
    from distillers.report.audit_page import render_audit

    device = device_of(config.devices())
    seen, source = _predictions(config, device)
    found = {"split": config.split, **audit(config.teachers, seen, source)}
    images = pictures(source, [int(each["row"]) for each in found["suspects"]], device)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "audit.json", found)
    write_atomically(out / "audit.html", render_audit(found, images).encode())
    _print(found)
    print(f"wrote {out / 'audit.html'} and {out / 'audit.json'}")


def _predictions(
    config: AuditConfig, device: "torch.device"
) -> "tuple[list[Predictions], DataSource]":
    """Return what each teacher predicts, and the data set with the images as its test images."""
    from distillers.checkpoints.for_dataset import find_test_source, for_dataset
    from distillers.checkpoints.load import best_checkpoint, load
    from distillers.training.evaluate import score
    from distillers.training.predictions import Predictions
    from distillers.training.teacher_scores import chance_warnings

    found: list[Predictions] = []
    source: DataSource | None = None
    for given in config.teachers:
        path = best_checkpoint(Path(given))
        classifier = load(path, model=config.model)
        if source is None:
            source = find_test_source(config, classifier.card, path)
            source = source.train_as_test() if config.split == "train" else source
        seen = Predictions()
        net = for_dataset(classifier, source, path, device)
        result = score(net, source.test_loader(device).epoch(1), on_batch=seen.add)
        for line in chance_warnings(result.acc, source):
            print(f"{given}: {line}")
        found.append(seen)
    assert source is not None  # there is a teacher
    return found, source


def _print(found: dict[str, Any]) -> None:
    """Print a line for each teacher, and what they doubt and agree on."""
    print(f"{found['images']:,} {found['split']} images of {found['dataset']}")
    for each in found["teachers"]:
        worst = min(
            (row for row in each["classes"] if row["recall"] is not None),
            key=lambda row: row["recall"],
        )
        print(
            f"{each['name']}: {each['accuracy']:.2f} % right, {each['confidence']:.2f} % sure, ECE "
            f"{each['ece']:.4f}; logits divided by {each['temperature']:.3f} have the lowest "
            f"cross-entropy (ECE {each['ece_at_temperature']:.4f}); weakest class "
            f"{worst['class']} with {worst['recall']:.2f} %"
        )
    if "together" in found:
        together = found["together"]
        print(
            f"all teachers agree on {together['unanimous']:.2f} % of the images; their mean is "
            f"right for {together['accuracy']:.2f} %"
        )
    for each in found["suspects"][:5]:
        print(
            f"label {each['label']}, predicted {each['prediction']} with "
            f"{each['confidence']:.2f} %: {each['image']}"
        )

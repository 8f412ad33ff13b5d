"""`distillers audit`: examine teachers before they teach."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from distillers.config.flags import Fact
from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig
from distillers.config.teachers import KEEP, TeacherFlags, split_name
from distillers.errors import InputError, escape
from distillers.files import write_json, write_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distillers.checkpoints.load import Classifier
    from distillers.data.source import DataSource
    from distillers.training.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class AuditConfig(ScoringConfig):
    """Examine teachers before they teach: accuracy, calibration, agreement, labels they doubt."""

    teachers: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints, run folders, exported files, or networks with published weights (timm:NAME,
    NAME=FILE, as for --path_t of `distillers student`), one or more."""
    model: str | None = None
    """Architecture of the teachers, if their files do not name it."""
    teacher_head: str = KEEP
    """Classifier of the teachers, if they have other classes or none: fit, logistic, or a
    safetensors file of class embeddings, as for `distillers student`; keep, their own."""
    class_map: Annotated[str | None, Fact.PATH] = None
    """File that maps the classes of the teachers to those of the data set."""
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
    from distillers.report.audit import audit, pictures, render_audit

    device = device_of(config.devices())
    seen, source = _predictions(config, device)
    found = {"split": config.split, **audit(config.teachers, seen, source)}
    images = pictures(source, [int(each["row"]) for each in found["suspects"]], device)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "audit.json", found)
    write_text(out / "audit.html", render_audit(found, images))
    _print(found)
    print(f"wrote {out / 'audit.html'} and {out / 'audit.json'}")


def _predictions(
    config: AuditConfig, device: "torch.device"
) -> "tuple[list[Predictions], DataSource]":
    """Return what each teacher predicts, and the data set with the images as its test images."""
    from distillers.training.evaluate import score
    from distillers.training.predictions import Predictions
    from distillers.training.teacher_scores import chance_warnings

    found: list[Predictions] = []
    images: DataSource | None = None
    for given in config.teachers:
        path, model = split_name(given, config.model)
        flags = TeacherFlags(path, model, config.teacher_head, config.class_map)
        classifier, images = _load(flags, config, images, device)
        net = _prepared(flags, classifier, images, device)
        source = images.train_as_test() if config.split == "train" else images
        seen = Predictions()
        result = score(net, source.test_loader(device).epoch(1), on_batch=seen.add)
        for line in chance_warnings(result.acc, source):
            print(f"{given}: {line}")
        found.append(seen)
    assert images is not None  # there is a teacher
    return found, images.train_as_test() if config.split == "train" else images


def _load(
    flags: TeacherFlags, config: AuditConfig, images: "DataSource | None", device: "torch.device"
) -> "tuple[Classifier, DataSource]":
    """Return a teacher, and the data set: that of the first teacher if it is not known yet."""
    from distillers.checkpoints.for_dataset import find_test_source
    from distillers.checkpoints.load import best_checkpoint, load
    from distillers.checkpoints.published import load_published
    from distillers.training.memory import check_published_fits

    if flags.is_named:
        images = images or find_test_source(config, {}, flags.path)
        check_published_fits(flags.path, device)
        classes, size = images.num_classes, images.image_size
        return load_published(flags.path, num_classes=classes, image_size=size), images
    path = best_checkpoint(Path(flags.path))
    classifier = load(path, model=flags.model)
    return classifier, images or find_test_source(config, classifier.card, path)


def _prepared(
    flags: TeacherFlags, classifier: "Classifier", images: "DataSource", device: "torch.device"
) -> "nn.Module":
    """Return a teacher on the device with the classes of the data set.

    Raises:
        InputError: if it has others.
    """
    from distillers.checkpoints.for_dataset import for_dataset
    from distillers.checkpoints.input_adapter import adapt_input
    from distillers.distillation.heads.prepare import FITTED, prepare_teacher
    from distillers.features.backbone import has_logits

    card, path = classifier.card, flags.path
    if flags.keeps_classes:
        if card.get("num_classes") not in (None, images.num_classes):
            raise InputError(
                f"{path} has {card.get('num_classes')} classes, the data set has "
                f"{images.num_classes}; add --teacher_head fit, or --class_map FILE."
            )
        return for_dataset(classifier, images, path, device)
    net = adapt_input(classifier.net, card, images)
    loader = images.train_eval_loader(device) if flags.head in FITTED else None
    try:
        net = prepare_teacher(
            net.to(device),
            images.sample(device),
            head=flags.head,
            class_map=flags.class_map,
            class_names=images.class_names,
            teacher_classes=card.get("class_names"),
            labelled=None if loader is None else loader.epoch(1),
            say=lambda line: print(f"{path}: {line}"),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not has_logits(net):
        raise InputError(f"--teacher_head {flags.head} leaves {path} no classes to examine.")
    return net.to(device).eval()


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
            f"{each['confidence']:.2f} %: {escape(each['image'])}"
        )

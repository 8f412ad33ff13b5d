"""`distillers evaluate`: evaluate a saved network on test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distillers.config.flags import Fact, output_paths
from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig
from distillers.files import write_json, write_text

if TYPE_CHECKING:
    from distillers.data.source import DataSource
    from distillers.report.evaluation import Evaluation
    from distillers.training.predictions import Predictions

MAX_CLASSES = 50  # of which the table is printed


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ScoringConfig):
    """Evaluate a saved network on the test images of its data set."""

    path: tyro.conf.Positional[str]
    """Checkpoint, run folder (its best checkpoint is used), or exported file."""
    path_t: str | None = None
    """Checkpoint of the teacher, for measuring how often the two agree."""
    model: str | None = None
    """Architecture of the network, if the file does not name it."""
    model_t: str | None = None
    """Architecture of the teacher, if its file does not name it."""
    json: Annotated[str | None, Fact.PATH] = None
    """File for all figures as JSON."""
    csv: Annotated[str | None, Fact.PATH] = None
    """File for a row for each image: path, label, prediction, probability of each class."""
    confusion: Annotated[str | None, Fact.PATH] = None
    """Folder for the confusion matrix, as confusion.png, .pdf and .csv."""


def main(args: Sequence[str]) -> None:
    """Print accuracies, scores of each class, calibration error, size and latency."""
    config = parse(EvaluateConfig, args, "distillers evaluate")
    config.check()
    outputs = output_paths(config, ("json", "csv", "confusion"), folders=["confusion"])

    from distillers.checkpoints.for_dataset import count_costs, find_test_source, for_dataset
    from distillers.checkpoints.load import best_checkpoint, file_bytes, load
    from distillers.distributed.rendezvous import device_of
    from distillers.report.evaluation import evaluation
    from distillers.training.evaluate import score
    from distillers.training.predictions import Predictions, agreement

    path = best_checkpoint(Path(config.path))
    device = device_of(config.devices())
    teacher = load(config.path_t, model=config.model_t) if config.path_t else None
    classifier = load(path, model=config.model, teacher=teacher and teacher.net)
    source = find_test_source(config, classifier.card, path)
    seen, teacher_seen = Predictions(), Predictions()
    net = for_dataset(classifier, source, path, device)
    result = score(net, source.test_loader(device).epoch(1), on_batch=seen.add)
    found = evaluation(result, seen, source, net, source.image_size)
    if teacher is not None:
        teacher_net = for_dataset(teacher, source, config.path_t or "", device)
        batches = source.test_loader(device).epoch(1)
        found.metrics["teacher_acc"] = score(teacher_net, batches, on_batch=teacher_seen.add).acc
        found.metrics["agreement"] = agreement(seen, teacher_seen)
    parameters, macs = count_costs(classifier, source.image_size)
    costs = {"parameters": parameters, "MACs": macs, "file_bytes": file_bytes(path)}
    facts = {"file": str(path), "dataset": source.name, "images": result.total, **costs}
    facts["device"] = str(device)
    _print(found, facts)
    _write(outputs, found, facts, seen, source, Path(config.path).name)


def _print(found: "Evaluation", facts: dict[str, Any]) -> None:
    """Print a line for each figure, then the tables of classes and latencies."""
    from distillers.report.formatting import format_figure

    part = "val" if "val_acc" in found.metrics else "test"
    print(f"{facts['file']} on the {facts['images']} {part} images of {facts['dataset']}")
    for name, value in found.metrics.items():
        interval = found.intervals.get(name)
        ends = f"  [{', '.join(map(format_figure, interval))}]" if interval else ""
        print(f"{name:<14} {value!r}{ends}")
    for name in ("parameters", "MACs", "file_bytes"):
        print(f"{name:<14} {facts[name]}")
    first = found.latency[0]
    note = found.load and f"; {found.load}"
    print(f"latency_ms     {first.milliseconds['p50']:.3f} (one image, {facts['device']}{note})")
    print()
    if len(found.classes) <= MAX_CLASSES:
        print(found.classes.to_string(index=False, float_format=lambda x: f"{x:.2f}", na_rep="–"))
    else:
        print(f"precision and recall of the {len(found.classes)} classes are in the --json file")
    print("\n batch    p50 ms    p90 ms    p99 ms   images/s")
    for each in found.latency:
        times = "".join(f"{ms:10.3f}" for ms in each.milliseconds.values())
        print(f"{each.batch_size:>6}{times}{each.images_per_second:>11.1f}")


def _write(
    paths: dict[str, Path],
    found: "Evaluation",
    facts: dict[str, Any],
    seen: "Predictions",
    source: "DataSource",
    name: str,
) -> None:
    """Write the files of --json, --csv and --confusion; `name` is that of the network."""
    from distillers.figures import confusion
    from distillers.figures.paper import paper_style, save_figure
    from distillers.report.evaluation import predictions_table

    if "json" in paths:
        write_json(paths["json"], {**facts, **found.as_json()})
    if "csv" in paths:
        table = predictions_table(seen, source).to_csv(index=False, lineterminator="\n")
        write_text(paths["csv"], table)
    if "confusion" in paths:
        paths["confusion"].mkdir(exist_ok=True)
        with paper_style():
            save_figure(confusion.plot(found.confusion, name), paths["confusion"])
    for path in paths.values():
        print(f"saved {path}")

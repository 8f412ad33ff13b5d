"""`distillers evaluate`: evaluate a saved network on test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig


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


def main(args: Sequence[str]) -> None:
    """Print loss, accuracies, calibration error, agreement with the teacher, size and latency."""
    config = parse(EvaluateConfig, args, "distillers evaluate")
    config.check()

    from distillers.checkpoints.for_dataset import count_costs, find_test_source, for_dataset
    from distillers.checkpoints.load import best_checkpoint, load
    from distillers.distributed.rendezvous import device_of
    from distillers.figures.calibration import (
        Predictions,
        agreement,
        balanced_accuracy,
        macro_f1,
    )
    from distillers.models.profile import latency_ms
    from distillers.timing import LoadMeter
    from distillers.training.evaluate import score

    path = best_checkpoint(Path(config.path))
    device = device_of(config.devices())
    teacher = load(config.path_t, model=config.model_t) if config.path_t else None
    classifier = load(path, model=config.model, teacher=teacher and teacher.net)
    source = find_test_source(config, classifier.card, path)
    seen, of_teacher = Predictions(), Predictions()
    net = for_dataset(classifier, source, path, device)
    result = score(seen.watch(net), seen.label(source.test_loader(device).epoch(1)))
    print(f"{path} on the {result.total} test images of {source.name}")
    print(f"test_acc       {result.acc!r}")
    print(f"test_acc_top5  {result.acc_top5!r}")
    print(f"test_loss      {result.loss!r}")
    print(f"correct        {result.correct}")
    print(f"balanced_acc   {balanced_accuracy(seen.classes(), seen.labels())!r}")
    print(f"macro_f1       {macro_f1(seen.classes(), seen.labels())!r}")
    print(f"ece            {seen.calibration_error()!r}")
    if teacher is not None:
        other = for_dataset(teacher, source, config.path_t or "", device)
        its = score(of_teacher.watch(other), source.test_loader(device).epoch(1))
        print(f"teacher_acc    {its.acc!r}")
        print(f"agreement      {agreement(seen, of_teacher)!r}")
    meter = LoadMeter()
    latency = latency_ms(net, source.image_size)
    note = meter.warning()
    parameters, macs = count_costs(classifier, source.image_size)
    print(f"parameters     {parameters}")
    print(f"MACs           {macs}")
    print(f"latency_ms     {latency:.3f} (one image, {device}{note and f'; {note}'})")

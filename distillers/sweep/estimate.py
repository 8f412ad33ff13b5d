"""How long runs will take and how much they will write, before they start.

Known from finished runs of the same kind in the same place, else measured here: the networks are
built with random weights and trained for about a second.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from distillers import models
from distillers.config.flags import Fact, flags_with
from distillers.config.student import StudentConfig
from distillers.data.batch import Batch
from distillers.data.source import BatchLoader, DataSource, WrappedLoader
from distillers.distillation import loss_weights as weights
from distillers.distillation.build import distil
from distillers.distillation.task import Supervised
from distillers.losses import CE
from distillers.sweep.caches import Cached, Caches, WarmCacheLoader, asked
from distillers.sweep.checks import Sources
from distillers.sweep.ledger import DONE
from distillers.sweep.runs import Run
from distillers.training import runner as running
from distillers.training.evaluate import score
from distillers.training.trainer import Trainer, TrainProgress

BUDGET = 1.0  # seconds of training that a measurement takes, after its first batch
MOST = 50  # batches of it
RECORDS = 10_000  # bytes of a run's flags and environment, about
FIGURES = 1_000  # bytes of the figures of an epoch, about


@dataclass(frozen=True)
class Cost:
    """What a run of some kind costs.

    Attributes:
        epoch: seconds.
        size: bytes that it leaves, without the checkpoints of every so many epochs.
        kept: bytes of one of those.
        cached: what it asks of its teacher's cache; None where the teacher runs in every step.
        read: seconds of an epoch that finds everything in that cache.
    """

    epoch: float
    size: float
    kept: float
    cached: Cached | None = None
    read: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What all the runs that are left will cost.

    Attributes:
        hours: of computing, one after another.
        longest: hours of the longest, with the training of its teacher.
        size: bytes.
        finished: kinds of run that were known from finished ones.
        measured: kinds that were measured.
    """

    hours: float
    longest: float
    size: float
    finished: int
    measured: int


def kind_of(flags: Mapping[str, Any]) -> str:
    """What runs whose epochs cost the same have in common.

    Args:
        flags: as `TrainConfig.as_json_types` gives them.
    """
    same_cost = (
        *flags_with(StudentConfig, Fact.NO_EFFECT),
        *flags_with(StudentConfig, Fact.SAME_COST),
    )
    left_out = {*same_cost, "Total params", "Total time"}
    return json.dumps({k: v for k, v in sorted(flags.items()) if k not in left_out})


def estimate(
    runs: Sequence[Run],
    save_dir: str,
    sources: Sources,
    device: torch.device,
    say: Callable[[str], None],
) -> Estimate:
    """What some runs will cost.

    Args:
        runs: those that are left to do.
        save_dir: where finished runs may lie.
        sources: their data.
        device: where to measure.
        say: called with a line before each measurement.
    """
    known = finished(save_dir)
    new = {kind_of(run.config.as_json_types()): run for run in reversed(runs)}
    new = {kind: run for kind, run in new.items() if kind not in known}
    measured = {}
    for number, (kind, run) in enumerate(new.items(), start=1):
        say(f"measuring {number} of {len(new)}: {run.label}")
        measured[kind] = measure(run, sources.of(run.config), device)
    costs, caches = known | measured, Caches()
    hours: dict[Path, float] = {}
    longest = size = 0.0
    for run in runs:
        cost, config = costs[kind_of(run.config.as_json_types())], run.config
        seconds = cost.epoch * config.epochs
        if cost.cached and isinstance(config, StudentConfig):
            filling, written = caches.take(config, cost.cached)
            seconds = cost.epoch * filling + cost.read * (config.epochs - filling)
            size += written
        hours[run.folder] = seconds / 3600
        before = hours.get(run.needs.folder, 0.0) if run.needs else 0.0
        longest = max(longest, before + hours[run.folder])
        num_kept = config.epochs // config.save_freq if config.save_freq else 0
        size += cost.size + num_kept * cost.kept
    used = {kind_of(run.config.as_json_types()) for run in runs}
    return Estimate(sum(hours.values()), longest, size, len(used & known.keys()), len(measured))


def finished(save_dir: str) -> dict[str, Cost]:
    """The costs of the kinds of run that lie finished in a place, of each the slowest."""
    costs: dict[str, Cost] = {}
    for path in Path(save_dir).glob(f"*/models/*/{DONE}"):
        if path.parent.is_symlink():
            continue
        try:
            flags = json.loads(path.read_text())
            seconds = flags["Total time"] * 3600 / flags["epochs"]
        except (ValueError, KeyError, TypeError):  # damaged: it says nothing, and a report names it
            continue
        sizes = {p: p.stat().st_size for p in path.parent.rglob("*") if p.is_file()}
        kept = [size for p, size in sizes.items() if p.name.startswith("ckpt_epoch_")]
        usual = max((s for p, s in sizes.items() if p.name.endswith("_best.pth")), default=0)
        cost = Cost(seconds, sum(sizes.values()) - sum(kept), max(kept, default=usual))
        kind = kind_of(flags)
        if kind not in costs or costs[kind].epoch < seconds:
            costs[kind] = cost
    return costs


def measure(run: Run, source: DataSource, device: torch.device) -> Cost:
    """Train a run's networks for about a second, with random weights."""
    config = run.config
    kept, _ = source.split(config.val_fraction, config.trial)
    task = _task(run, source, kept.train_labels, device)
    trainer = Trainer(task, running.build_plan(config, run.network, source.image_size))
    loader = kept.train_loader(config.batch_size, seed=0, drop_last=True, device=device)
    training = Timed(loader)
    trainer.train_epoch(training, TrainProgress(0))
    deployed = task.deployed()
    tests = source.test_loader(device)
    scoring = Timed(tests)
    score(deployed, scoring.epoch(1))
    best = _bytes(deployed.state_dict())
    last = _bytes(
        {"model": deployed.state_dict(), "trainer": vars(trainer.state(TrainProgress(1)))}
    )
    size = best + last * min(2, config.epochs) + RECORDS + FIGURES * config.epochs
    scored = scoring.seconds * len(tests)
    cost = Cost(training.seconds * len(loader) + scored, size, best)
    if not isinstance(config, StudentConfig):
        return cost
    cached = asked(config, task, source, len(kept.train_labels), source.sample(device))
    if cached is None:
        return cost
    reading = Timed(WarmCacheLoader(loader, task))
    trainer.train_epoch(reading, TrainProgress(0))
    return replace(cost, cached=cached, read=reading.seconds * len(loader) + scored)


class Timed(WrappedLoader):
    """The first batches of a loader, for about `BUDGET` seconds, and how long each took.

    Args:
        loader: gives the batches.
    """

    def __init__(self, loader: BatchLoader) -> None:
        super().__init__(loader)
        self._stamps: list[float] = []

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        for batch in islice(self._loader.epoch(number, start_batch), MOST):
            yield batch
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._stamps.append(time.monotonic())
            if len(self._stamps) > 1 and self._stamps[-1] - self._stamps[0] > BUDGET:
                return

    @property
    def seconds(self) -> float:
        """Of a batch, the loading of it and what was done with it."""
        first, *rest = self._stamps
        return (rest[-1] - first) / len(rest) if rest else 0.0


def _task(run: Run, source: DataSource, labels: torch.Tensor, device: torch.device) -> Any:
    """What the run trains, as train_student.py or train_teacher.py makes it."""
    classes, size = source.num_classes, source.image_size
    config = run.config
    net = models.create(run.network, num_classes=classes, image_size=size).to(device)
    if not isinstance(config, StudentConfig):
        return Supervised(net, CE())
    assert run.teacher is not None  # a student's run has one
    teacher = models.create(run.teacher, num_classes=classes, image_size=size).eval().to(device)
    chosen = weights.choose(config, run.teacher)
    sample = source.sample(device)
    return distil(
        net,
        teacher,
        chosen.terms(),
        images=sample,
        train_labels=labels.to(device),
        batch_size=config.batch_size,
        options=weights.options(config, chosen, run.teacher),
        student_taps=config.taps_s,
        teacher_taps=config.taps_t,
    )


def _bytes(content: Any) -> int:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.tell()

"""Estimate how long runs take and how much they write, before they start.

Known from finished runs of equal cost in the same folder, otherwise measured: the networks are
built with random weights and trained for about a second, with the teacher in every step.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from distillers import models
from distillers.config.flags import Fact, flags_with
from distillers.config.run_files import RunTotals, check_fields, load_json
from distillers.config.student import StudentConfig
from distillers.config.train import TrainConfig
from distillers.data.batch import Batch
from distillers.data.source import BatchLoader, DataSource, WrappedLoader
from distillers.distillation import loss_weights
from distillers.distillation.build import distil
from distillers.distillation.distillation import Distillation
from distillers.distillation.heads.attach import embed
from distillers.distillation.task import Supervised
from distillers.errors import CorruptFileError
from distillers.features.backbone import has_logits
from distillers.losses import CE
from distillers.sweep.expand import Run
from distillers.sweep.ledger import DONE
from distillers.timing import synchronize
from distillers.training.evaluate import score
from distillers.training.run_setup import build_hparams
from distillers.training.trainer import Trainer, TrainProgress

OpenSource = Callable[[TrainConfig], DataSource]

MEASURED_SECONDS = 1.0  # after the first batch
MAX_BATCHES = 50
RUN_BYTES = 10_000  # approximate size of flags and environment
EPOCH_BYTES = 1_000  # approximate size of the metrics of an epoch
TOTALS = ("Total params", "Total time")  # in `parameters.json`, beside the flags


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    Attributes:
        epoch_seconds: duration of an epoch.
        run_bytes: size of its folder, without the checkpoints of --save_freq.
        checkpoint_bytes: size of one of those.
    """

    epoch_seconds: float
    run_bytes: float
    checkpoint_bytes: float


@dataclass(frozen=True)
class Estimate:
    """Cost of all runs.

    Attributes:
        hours: hours of all, one after another.
        longest: hours of the longest, including its teacher.
        size: bytes.
        num_finished: kinds of runs known from finished ones.
        num_measured: kinds of runs that were measured.
    """

    hours: float
    longest: float
    size: float
    num_finished: int
    num_measured: int


def cost_key(flags: Mapping[str, Any]) -> str:
    """Return a key that is the same for runs whose epochs have the same cost."""
    no_cost = [*flags_with(StudentConfig, Fact.NO_EFFECT), *TOTALS]
    no_cost += flags_with(StudentConfig, Fact.SAME_COST)
    return json.dumps({k: v for k, v in sorted(flags.items()) if k not in no_cost})


def estimate(
    runs: Sequence[Run], save_dir: str | Path, open_source: OpenSource, device: torch.device
) -> Estimate:
    """Estimate the cost of runs, and print a "#" line for each that is measured."""
    keys = {run.folder: cost_key(run.config.as_json_types()) for run in runs}
    costs = costs_of_finished_runs(save_dir)
    num_finished = len(costs.keys() & set(keys.values()))
    unknown = {keys[run.folder]: run for run in reversed(runs) if keys[run.folder] not in costs}
    for number, (key, run) in enumerate(unknown.items(), start=1):
        print(f"# measuring {number} of {len(unknown)}: {run.label}")
        costs[key] = measure_cost(run, open_source(run.config), device)
    hours: dict[Path, float] = {}
    longest = size = 0.0
    for run in runs:
        cost, config = costs[keys[run.folder]], run.config
        hours[run.folder] = cost.epoch_seconds * config.epochs / 3600
        before = hours.get(run.teacher_run.folder, 0.0) if run.teacher_run else 0.0
        longest = max(longest, before + hours[run.folder])
        num_kept = config.epochs // config.save_freq if config.save_freq else 0
        size += cost.run_bytes + num_kept * cost.checkpoint_bytes
    return Estimate(sum(hours.values()), longest, size, num_finished, len(unknown))


def costs_of_finished_runs(save_dir: str | Path) -> dict[str, Cost]:
    """Return the costs of the finished runs in a folder by `cost_key`, of each the slowest."""
    costs: dict[str, Cost] = {}
    for path in Path(save_dir).glob(f"*/models/*/{DONE}"):
        if path.parent.is_symlink():
            continue
        try:
            flags = load_json(path)[0]
            check_fields(flags, RunTotals, path.name)
            seconds = flags["Total time"] * 3600 / flags["epochs"]
        except (OSError, CorruptFileError):
            continue  # damaged; `distillers report` lists it
        sizes = {p: p.stat().st_size for p in path.parent.rglob("*") if p.is_file()}
        kept = [size for p, size in sizes.items() if p.name.startswith("ckpt_epoch_")]
        best = max((s for p, s in sizes.items() if p.name.endswith("_best.pth")), default=0)
        cost = Cost(seconds, sum(sizes.values()) - sum(kept), max(kept, default=best))
        key = cost_key(flags)
        if key not in costs or costs[key].epoch_seconds < seconds:
            costs[key] = cost
    return costs


def measure_cost(run: Run, source: DataSource, device: torch.device) -> Cost:
    """Train the networks of a run for about a second, with random weights."""
    config = run.config
    train, _ = source.augmented(config.augmentation()).split(config.val_fraction, config.trial)
    task = _build_task(run, source, train.train_labels, device)
    trainer = Trainer(task, build_hparams(config, run.network, source.image_size))
    keeps_last = not (config.as_published_by_simkd or task.full_batches)
    is_small = len(train.train_labels) < config.batch_size
    loader = train.train_loader(
        config.batch_size,
        seed=0,
        drop_last=not (keeps_last and is_small),
        device=device,
        second_view=task.reads_strong,
    )
    timer = LoaderTimer(loader)
    trainer.train_epoch(timer, TrainProgress(0))
    deployed, test_loader = task.deployed(), source.test_loader(device)
    test_timer = LoaderTimer(test_loader)
    if has_logits(deployed):
        score(deployed, test_timer.epoch(1))
    else:
        embed(deployed, test_timer.epoch(1))
    seconds = timer.batch_seconds * len(loader) + test_timer.batch_seconds * len(test_loader)
    best = _num_bytes(deployed.state_dict())
    trainer_state = vars(trainer.state(TrainProgress(1)))
    last = _num_bytes({"model": deployed.state_dict(), "trainer": trainer_state})
    size = best + last * min(2, config.epochs) + RUN_BYTES + EPOCH_BYTES * config.epochs
    return Cost(seconds, size, best)


class LoaderTimer(WrappedLoader):
    """The first batches of a loader, for about `MEASURED_SECONDS`, timed."""

    def __init__(self, loader: BatchLoader) -> None:
        super().__init__(loader)
        self._times: list[float] = []

    @override
    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        for batch in islice(self._loader.epoch(number, start_batch), MAX_BATCHES):
            yield batch
            synchronize(self.device)
            self._times.append(time.monotonic())
            if len(self._times) > 1 and self._times[-1] - self._times[0] > MEASURED_SECONDS:
                return

    @property
    def batch_seconds(self) -> float:
        """Mean duration of loading and using a batch, without the first."""
        return (self._times[-1] - self._times[0]) / max(1, len(self._times) - 1)


def _build_task(
    run: Run, source: DataSource, labels: Tensor, device: torch.device
) -> Distillation | Supervised:
    """Build what the run trains, with random weights."""
    config, facts = run.config, {"num_classes": source.num_classes, "image_size": source.image_size}
    if not isinstance(config, StudentConfig):
        return Supervised(models.create(run.network, **facts).to(device), CE())
    if config.student_head == "none":
        facts["num_classes"] = 0
    net = models.create(run.network, **facts).to(device)
    assert run.teacher is not None  # a student's run has one
    chosen = loss_weights.choose(config, run.teacher)
    return distil(
        net,
        [models.create(name, **facts).eval().to(device) for name in run.teacher.split("+")],
        chosen.terms(),
        images=source.sample(device),
        train_labels=labels.to(device),
        batch_size=config.batch_size,
        options=loss_weights.options(config, chosen, run.teacher),
        student_taps=config.taps_s,
        teacher_taps=config.taps_t,
        teacher_weights=config.teacher_weights,
        combine=config.combine_teachers,
        drop_teachers=config.drop_teachers,
    )


def _num_bytes(content: Any) -> int:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.tell()

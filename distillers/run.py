"""The course of one training run: folder, data, loop, records, checkpoints."""

import dataclasses
import errno
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distillers import checkpoint, recipes
from distillers.config import Training, file_name
from distillers.data.reading import Views
from distillers.data.source import BatchLoader, DataSource
from distillers.errors import InputError
from distillers.evaluate import score
from distillers.models.measure import count_parameters
from distillers.progress import Progress
from distillers.record import Record
from distillers.train import Plan, fit

if TYPE_CHECKING:
    from distillers.cache.values import TeacherCache


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run keeps its files, and what it goes on from.

    Attributes:
        folder: the run folder; it may not exist yet.
        name: of the network, in the files' names.
        state: the `last` checkpoint to go on from, or None.
    """

    folder: Path
    name: str
    state: dict[str, Any] | None

    @property
    def best(self) -> Path:
        """The checkpoint that the run reports."""
        return self.folder / f"{self.name}_best.pth"

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.folder / f"{self.name}_last.pth"


def claim(folder: Path, network: str, config: Training) -> Place:
    """Decide what to do with a run folder that may be there already; nothing is written.

    Raises:
        InputError: when there is an earlier run and neither --resume nor --overwrite was given.
    """
    name = file_name(network)
    place = Place(folder, name, None)
    if not folder.exists() or config.overwrite:
        return place
    if not config.resume:
        raise InputError(
            f"{folder} holds an earlier run with the same flags; add --resume to go on with it or "
            "--overwrite to delete it."
        )
    return Place(folder, name, checkpoint.load(place.last)) if place.last.exists() else place


def device_of(gpu_id: str | None) -> torch.device:
    """The device that --gpu_id names: a GPU's number, "cpu", or the first GPU where there is one.

    Raises:
        InputError: for a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_id is None:
        return torch.device("cuda:0" if count else "cpu")
    if gpu_id == "cpu":
        return torch.device("cpu")
    if not gpu_id.isdigit():
        raise InputError(f"--gpu_id is {gpu_id}; it must be the number of one GPU, or cpu.")
    if int(gpu_id) >= count:
        there = f"there are {count}" if count else "there is no usable GPU on this machine"
        raise InputError(f"--gpu_id {gpu_id} was asked for, but {there}; leave it out or say cpu.")
    return torch.device(f"cuda:{gpu_id}")


def prepare(config: Training) -> None:
    """Seed every generator from --trial, and choose kernels."""
    torch.manual_seed(config.trial)
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def plan_of(config: Training, network: str, image_size: int) -> Plan:
    """How to train, the published rate in the place of one that was left out."""
    rate = config.learning_rate or recipes.learning_rate(network, image_size)
    names = {field.name for field in dataclasses.fields(Plan)} - {"learning_rate", "milestones"}
    same = {name: getattr(config, name) for name in names}
    return Plan(learning_rate=rate, milestones=config.lr_decay_epochs, **same)


def train(
    config: Training,
    task: Any,
    source: DataSource,
    place: Place,
    card: dict[str, Any],
    device: torch.device,
    *,
    views: Views | None = None,
    cache: "TeacherCache | None" = None,
) -> None:
    """Train a task from the first epoch, or the one that `place` holds, to the last.

    Args:
        config: the flags.
        task: see `distillers.train.Task`, on `device`.
        source: the data.
        place: where the files go.
        card: what describes the deployed network in its checkpoints.
        device: where to train.
        views: fixed augmented views that each training image has; None for ever new ones.
        cache: what the teacher says of these views.
    """
    kept, held_out = source.split(config.val_fraction, config.trial)
    drop_last = config.protocol == "simkd" or getattr(task, "full_batches", False)
    loader = kept.train_loader(
        config.batch_size, seed=config.trial, drop_last=drop_last, device=device, views=views
    )
    if cache:
        loader = cache.over(loader)
    tests = {"test": source.test_loader(device)}
    if held_out:
        tests["val"] = held_out.test_loader(device)
    if config.channels_last:
        task.to(memory_format=torch.channels_last)
    plan = plan_of(config, place.name, source.image_size)
    if config.overwrite and place.folder.exists():
        shutil.rmtree(place.folder)
    done = place.state["epoch"] if place.state else -getattr(task, "warmup_epochs", 0)
    record = Record(place.folder, config.plain(), done)
    progress = Progress(plan.epochs, len(loader), done)
    keeper = Keeper(config, place, record, card, progress)
    try:
        fit(
            task,
            loader,
            plan,
            score=lambda net: figures_of(net, tests),
            keep=keeper.keep,
            report=progress.batch,
            resumed=place.state["trainer"] if place.state else None,
        )
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"the disk is full: {error}. The checkpoints written before are whole; make room "
                "and go on with --resume."
            ) from error
        raise
    finally:
        progress.close()
        record.close()
    keeper.finish(task.deployed())


def figures_of(net: nn.Module, tests: Mapping[str, BatchLoader]) -> dict[str, float]:
    """Loss and accuracies on each set: `test_loss`, `test_acc`, `test_acc_top5`, `val_acc`..."""
    figures: dict[str, float] = {}
    for name, loader in tests.items():
        each = score(net, loader.epoch(1))
        figures |= {f"{name}_{key}": getattr(each, key) for key in ("loss", "acc", "acc_top5")}
    return figures


class Keeper:
    """Records every epoch of a run, and saves the last network and the one that is reported.

    The reported epoch is the best on the held-out images where there are some; else the best on
    the test images under the simkd protocol, as published; else the last.
    """

    def __init__(
        self,
        config: Training,
        place: Place,
        record: Record,
        card: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.config, self.place, self.record, self.progress = config, place, record, progress
        self.card = card
        self.best: dict[str, float] | None = place.state["best"] if place.state else None
        self.hours = place.state["hours"] if place.state else 0.0
        self.started = time.monotonic()

    def keep(self, row: dict[str, float], state: dict[str, Any], deployed: nn.Module) -> None:
        """Record and save one epoch."""
        epoch = int(row["epoch"])
        hours = self.hours + (time.monotonic() - self.started) / 3600
        better = epoch >= 1 and self._is_better(row)
        if better:
            self.best = row
        payload = {
            "epoch": epoch,
            "model": deployed.state_dict(),
            "accuracy": row["test_acc"],
            "card": self.describe(deployed),
        }
        if better:
            checkpoint.save(self.place.best, {**payload, "best_acc": row["test_acc"]})
        if self.config.save_freq and epoch % self.config.save_freq == 0:
            checkpoint.save(self.place.folder / f"ckpt_epoch_{epoch}.pth", payload)
        self.record.epoch(row)
        if better:
            self.record.write_json("test_best_metrics.json", _reported(row))
        resumable = {"trainer": state, "best": self.best, "hours": hours}
        checkpoint.save(self.place.last, {**payload, **resumable})
        self.progress.epoch(epoch, row)

    def finish(self, deployed: nn.Module) -> None:
        """Write the documented summary of the whole run."""
        hours = self.hours + (time.monotonic() - self.started) / 3600
        size = count_parameters(deployed) / 1e6
        totals = {"Total params": round(size, 6), "Total time": round(hours, 6)}
        self.record.write_json("parameters.json", {**self.config.plain(), **totals})

    def describe(self, deployed: nn.Module) -> dict[str, Any]:
        """The card that lets the deployed network be built again."""
        return {**self.card, "deploy": getattr(deployed, "card", None)}

    def _is_better(self, row: dict[str, float]) -> bool:
        if self.best is None:
            return True
        if "val_acc" in row:
            return row["val_acc"] > self.best["val_acc"]
        return self.config.protocol == "crd" or row["test_acc"] > self.best["test_acc"]


def _reported(row: dict[str, float]) -> dict[str, float]:
    names = ("test_loss", "test_acc", "test_acc_top5", "epoch")
    return {name: row[name] for name in names}


def card_of(model: str, source: DataSource, config: Training) -> dict[str, Any]:
    """What a checkpoint says of its network: enough to build it and to feed it rightly."""
    return {
        "format": checkpoint.FORMAT,
        "model": model,
        "num_classes": source.num_classes,
        "image_size": source.image_size,
        "dataset": source.name,
        "mean": list(source.mean),
        "std": list(source.std),
        "channels_last": config.channels_last,
    }

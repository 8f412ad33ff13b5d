"""The state of a training run: everything that the rest of the run depends on."""

import random
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from distillers.config.hyperparameters import Precision
from distillers.errors import InputError


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        epoch: last epoch that was trained, evaluated and recorded. The epochs of a warm-up stage of
            W epochs count from 1 - W to 0, those of the training from 1.
        batch: number of batches of the following epoch that were trained.
        metrics: state of the `EpochMetrics` of these batches, summed over all processes.
    """

    epoch: int
    batch: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainState:
    """State of a `Trainer`, in tensors and plain types, independent of the number of processes.

    Attributes:
        epoch: see `TrainProgress`.
        batch: see `TrainProgress`.
        metrics: see `TrainProgress`.
        world_size: number of processes that wrote it.
        precision: precision of the step, as `--precision auto` may have chosen it.
        task: state dict of the task; its own weights, not averaged ones.
        ema: state of the averaged weights, or None.
        optimizer: state dict of the optimizer.
        scaler: state dict of the gradient scaler.
        rng: states of the random number generators of each process, in the order of ranks.
    """

    epoch: int
    batch: int
    metrics: dict[str, Any]
    world_size: int
    precision: Precision
    task: dict[str, Tensor]
    ema: dict[str, Any] | None
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    rng: list[dict[str, Any]]

    @property
    def progress(self) -> TrainProgress:
        """How far the run was when the state was taken."""
        return TrainProgress(self.epoch, self.batch, self.metrics)


@dataclass(frozen=True)
class RunState:
    """What a `*_last.pth` checkpoint holds in addition to the network, for `--resume`.

    Attributes:
        trainer: state of the training.
        card: description of the network and of the run.
        best: metrics of the reported epoch so far, or None.
        hours: training time so far.
        peak_memory: largest memory use so far, in MiB.
    """

    trainer: TrainState
    card: dict[str, Any]
    best: dict[str, float] | None
    hours: float
    peak_memory: float

    def as_dict(self) -> dict[str, Any]:
        """Return tensors and plain types, which `from_dict` reads."""
        return {**vars(self), "trainer": vars(self.trainer)}

    @classmethod
    def from_dict(cls, content: dict[str, Any], path: Path) -> "RunState":
        """Read what `as_dict` gave.

        Raises:
            InputError: if it was written by another version, or is not of a run to resume.
        """
        trainer = content.get("trainer")
        expected = {item.name for item in fields(TrainState)}
        own = {item.name for item in fields(cls)}
        if not isinstance(trainer, dict) or trainer.keys() != expected or not own <= content.keys():
            raise InputError(
                f"{path} was not written by this version of distillers; resume with the version "
                "that wrote it, or start anew with --overwrite."
            )
        others = {name: content[name] for name in own - {"trainer"}}
        return cls(trainer=TrainState(**trainer), **others)


def generator_state(device: torch.device) -> dict[str, Any]:
    """Return the RNG states of PyTorch (CPU and `device`), NumPy and Python, in plain types."""
    kind, keys, *rest = cast(tuple, np.random.get_state())  # noqa: NPY002, losses of users may draw from it
    version, words, spare = random.getstate()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, list(words), spare],
    }


def set_generators(state: dict[str, Any], device: torch.device) -> None:
    """Restore a `generator_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, spare = state["python"]
    random.setstate((version, tuple(words), spare))

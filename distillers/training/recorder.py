"""Write the logs and checkpoints of a run while it trains."""

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distillers.checkpoints import io as checkpoint
from distillers.config.hyperparameters import Hyperparameters
from distillers.config.run_files import SELECTED, reported_part
from distillers.config.train import TrainConfig
from distillers.distributed.collectives import num_ranks
from distillers.files import write_text
from distillers.models.profile import count_macs, count_parameters, latency_ms, peak_memory_mib
from distillers.progress import Progress
from distillers.timing import LoadMeter
from distillers.training.loggers import RunLogger
from distillers.training.run_dir import RunDir
from distillers.training.state import RunState, TrainState


@contextmanager
def open_recorder(
    config: TrainConfig,
    run_dir: RunDir,
    card: dict[str, Any],
    hparams: Hyperparameters,
    batches: int,
    done: int,
) -> Iterator["RunRecorder"]:
    """Open the recorder of a run, and close its files at the end."""
    if run_dir.state is None and config.overwrite and run_dir.folder.exists():
        with run_dir.locked():
            shutil.rmtree(run_dir.folder)
    run_dir.folder.mkdir(parents=True, exist_ok=True)
    with run_dir.locked():
        logger = RunLogger(run_dir.folder, config.as_json_types(), done, config.wandb)
        progress = Progress(hparams.epochs, batches, done)
        try:
            yield RunRecorder(config, run_dir, logger, card, progress)
        finally:
            progress.close()
            logger.close()


class RunRecorder:
    """Log every epoch of a run, and save the last network and the reported one.

    The reported epoch is the best by --select. Without that flag it is the most accurate on the
    held-out images if there are any, else the most accurate on the test images under the simkd
    protocol, as published, else the last.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: RunDir,
        logger: RunLogger,
        card: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.config, self.run_dir, self.logger, self.progress = config, run_dir, logger, progress
        self.card = card
        state = run_dir.state
        self.best = state.best if state else None
        self.epoch = state.trainer.epoch if state else 0
        self.hours = state.hours if state else 0.0
        self.peak_memory = state.peak_memory if state else 0.0
        self.started = time.monotonic()

    def on_epoch_end(self, row: dict[str, float], state: TrainState, deployed: nn.Module) -> None:
        """Record and save one epoch."""
        epoch = int(row["epoch"])
        self.epoch = epoch
        better = epoch >= 1 and self._is_better(row)
        if better:
            self.best = row
        self._note_memory(deployed)
        part = reported_part(row)
        accuracy = row[f"{part}_acc"]
        payload = {**self._payload(epoch, deployed), "accuracy": accuracy}
        if better:
            checkpoint.save(self.run_dir.best, {**payload, "best_acc": accuracy})
        if self.config.save_freq and epoch % self.config.save_freq == 0:
            checkpoint.save(self.run_dir.folder / f"ckpt_epoch_{epoch}.pth", payload)
        self.logger.epoch(row)
        if better:
            names = (f"{part}_loss", f"{part}_acc", f"{part}_acc_top5", "epoch")
            reported = json.dumps({name: row[name] for name in names}, indent=2)
            write_text(self.run_dir.folder / "test_best_metrics.json", f"{reported}\n")
        self._save_last(payload, state)
        self.progress.epoch(epoch, row)

    def is_exhausted(self) -> bool:
        """Return whether no epoch of the last --patience epochs is better than those before."""
        patience = self.config.patience
        return bool(patience and self.best and self.epoch - self.best["epoch"] >= patience)

    def pause(self, state: TrainState, deployed: nn.Module) -> None:
        """Save a state within an epoch, to resume from."""
        self._note_memory(deployed)
        self._save_last(self._payload(state.epoch, deployed), state)

    def finish(self, deployed: nn.Module) -> None:
        """Write `parameters.json` as documented, and `summary.json` for reports."""
        size, hours = count_parameters(deployed) / 1e6, self._hours()
        measured = costs(deployed, self.card["image_size"])
        measured |= {"hours": hours, "peak_memory_mib": self.peak_memory or None}
        facts = {**self.card.get("distilled", {}), "data": self.card["data"]}
        self.logger.write_json("summary.json", {**facts, **measured})
        totals = {"Total params": round(size, 6), "Total time": round(hours, 6)}
        self.logger.write_json("parameters.json", {**self.config.as_json_types(), **totals})

    def outcome(self) -> str:
        """Return a line with the accuracy of the reported epoch, and of the last epoch."""
        assert self.best is not None, "a run has an epoch at least"
        name, epoch = f"{reported_part(self.best)}_acc", int(self.best["epoch"])
        line = f"reported: {name.replace('_', ' ')} {self.best[name]:.2f}, epoch {epoch}"
        last = self.logger.rows[-1] if self.logger.rows else self.best
        return line if last["epoch"] == epoch else f"{line} (last epoch: {last[name]:.2f})"

    def _payload(self, epoch: int, deployed: nn.Module) -> dict[str, Any]:
        card = {**self.card, "deploy": getattr(deployed, "card", None)}
        return {"epoch": epoch, "model": deployed.state_dict(), "card": card}

    def _save_last(self, payload: dict[str, Any], state: TrainState) -> None:
        card = payload["card"]
        run = RunState(state, card, self.best, self._hours(), self.peak_memory)
        content = {"format": checkpoint.FORMAT, **payload, **run.as_dict()}
        checkpoint.save(self.run_dir.last, content, self.run_dir.previous)

    def _note_memory(self, deployed: nn.Module) -> None:
        self.peak_memory = max(self.peak_memory, peak_memory_mib(deployed))

    def _hours(self) -> float:
        return self.hours + (time.monotonic() - self.started) / 3600

    def _is_better(self, row: dict[str, float]) -> bool:
        if self.best is None:
            return True
        part, figure = "val" if "val_acc" in row else "test", self.config.select
        if part == "test" and figure is None and not self.config.as_published_by_simkd:
            return True
        name = f"{part}_{SELECTED[figure]}"
        now, best = row[name], self.best[name]
        if math.isnan(best):  # the loss of logits that are not finite; nothing compares with it
            return True
        return now < best if figure == "loss" else now > best


def costs(deployed: nn.Module, image_size: int) -> dict[str, Any]:
    """Measure the costs of a deployed network.

    Returns:
        `parameters`; `macs` of one image; `latency_ms`, the median of 30 forward passes of one
        image on this device; `busy_cores`, used by other programs meanwhile; the name of the
        `device`; the number of `devices` that trained together; `cpu_threads`.
    """
    device = next(deployed.parameters()).device
    meter = LoadMeter()
    latency = latency_ms(deployed, image_size)
    return {
        "parameters": count_parameters(deployed),
        "macs": count_macs(deployed, image_size),
        "latency_ms": latency,
        "busy_cores": meter.busy_cores(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "devices": num_ranks(),
        "cpu_threads": torch.get_num_threads(),
    }

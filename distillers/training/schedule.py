"""Set the learning rate of every update."""

from typing import Any

import torch

from distillers.config.hyperparameters import Hyperparameters
from distillers.errors import InputError


class Schedule:
    """Set the learning rates of an optimizer, as published or by a scheduler of timm.

    The rates are a function of epoch and update only. Those of a first stage, before epoch 1, are
    the initial ones. A parameter group's `lr_scale` multiplies its rate.

    Raises:
        InputError: if timm refuses the hyperparameters.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, hparams: Hyperparameters, updates_per_epoch: int
    ) -> None:
        self._optimizer, self._hparams = optimizer, hparams
        self._updates_per_epoch = updates_per_epoch
        self._scheduler: Any = None
        if hparams.sched is not None:
            self._scheduler = self._build_scheduler(hparams.sched)

    def set(self, epoch: int, update: int = 0) -> None:
        """Set the rates after `update` updates of an epoch, from 1; smaller in a first stage."""
        if self._scheduler is None or epoch < 1:
            rate = self._hparams.rate(epoch)
            for group in self._optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
        elif self._hparams.sched_on_updates:
            self._scheduler.step_update((epoch - 1) * self._updates_per_epoch + update)
        else:
            self._scheduler.step(epoch - 1)

    @property
    def rate(self) -> float:
        """The present learning rate, without the `lr_scale` of groups."""
        group = self._optimizer.param_groups[0]
        return group["lr"] / group.get("lr_scale", 1.0)

    def _build_scheduler(self, name: str) -> Any:
        from timm.scheduler import create_scheduler_v2

        hparams, by_update = self._hparams, self._hparams.sched_on_updates
        for group in self._optimizer.param_groups:
            group["initial_lr"] = hparams.learning_rate
        try:
            scheduler, _ = create_scheduler_v2(
                self._optimizer,
                name,
                num_epochs=hparams.epochs,
                decay_epochs=hparams.decay_epochs,
                decay_rate=hparams.lr_decay_rate,
                min_lr=hparams.min_lr,
                warmup_lr=hparams.warmup_lr,
                warmup_epochs=hparams.warmup_epochs,
                step_on_epochs=not by_update,
                updates_per_epoch=self._updates_per_epoch,
            )
        except ValueError as error:
            raise InputError(f"--sched {name} cannot be created: {error}") from error
        if name == "multistep":  # timm decays at the start of the last epoch before a milestone
            length = self._updates_per_epoch if by_update else 1
            scheduler.decay_t = [milestone * length + 1 for milestone in hparams.milestones]
        return scheduler

"""Loss and accuracy over an epoch."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from distillers.data.batch import Batch
from distillers.distillation import Step
from distillers.distributed import World
from distillers.errors import Diverged


class Tally:
    """Sums over an epoch that stay on the device until somebody looks.

    Args:
        sums: the `state` of an earlier process to go on from.
    """

    def __init__(self, sums: dict[str, Any] | None = None) -> None:
        sums = sums or {"images": 0, "seconds": 0.0, "skipped": 0, "sums": {}}
        self.images: int = sums["images"]
        self.skipped: int = sums["skipped"]
        self._began = time.monotonic() - sums["seconds"]
        self._sums: dict[str, Tensor] = dict(sums["sums"])
        self._culprits: Tensor | None = None  # batch, loss and parts where it first went wrong

    @torch.no_grad()
    def add(self, step: Step, batch: Batch, number: int = 0) -> None:
        """Count one step, that of batch `number`."""
        count = len(batch.labels)
        self.images += count
        self._plus("train_loss", step.loss.detach() * count)
        for name, part in step.parts.items():
            self._plus(f"train_{name}", part * count)
        self._watch(step, number)
        if step.logits is not None:
            self._plus("train_acc", 100 * (step.logits.argmax(1) == batch.labels).sum())

    def figures(self, world: World | None = None) -> dict[str, float]:
        """The means so far; this waits for the device.

        Args:
            world: over all its processes, which must all ask; over this one where left out.

        Raises:
            Diverged: when the loss was not finite, with its parts at the first such step.
        """
        self._refuse_culprits()
        images, sums = float(self.images), self._sums
        if world is not None:
            images, sums = self._over(world)
        if not images:
            raise Diverged("no batch had a finite loss; try a lower learning rate.")
        names = list(sums)
        totals = torch.stack([sums[name].double() for name in names]).tolist()
        means = {name: value / images for name, value in zip(names, totals, strict=True)}
        if not math.isfinite(means["train_loss"]):  # that of another process
            raise Diverged("the loss is not finite any more; try a lower learning rate.")
        if self.skipped:
            means["skipped"] = float(self.skipped)
        return {**means, "images_per_second": images / (time.monotonic() - self._began)}

    def state(self, world: World) -> dict[str, Any]:
        """What `Tally` takes to go on, the sums of all processes, which must all ask."""
        images, sums = self._over(world)
        return {
            "images": int(images),
            "seconds": time.monotonic() - self._began,
            "skipped": self.skipped,
            "sums": {name: value.cpu() for name, value in sums.items()},
        }

    def _over(self, world: World) -> tuple[float, dict[str, Tensor]]:
        names = sorted(self._sums)
        if not names:
            return 0.0, {}
        each = [self._sums[name].double() for name in names]
        count = torch.full_like(each[0], self.images)
        images, *totals = world.sum(torch.stack([count, *each])).unbind()
        return float(images), dict(zip(names, totals, strict=True))

    def _watch(self, step: Step, number: int) -> None:
        """Note the parts of the loss at the first step at which it is not finite."""
        loss = step.loss.detach().float()
        parts = [part.float() for part in step.parts.values()]
        now = torch.stack([torch.full_like(loss, number), loss, *parts])
        if self._culprits is None:
            self._names = list(step.parts)
            self._culprits = now
        else:
            self._culprits = torch.where(self._culprits[1].isfinite(), now, self._culprits)

    def _refuse_culprits(self) -> None:
        if self._culprits is None:
            return
        number, loss, *parts = self._culprits.tolist()
        if math.isfinite(loss):
            return
        each = zip(self._names, parts, strict=True)
        told = ", ".join(f"{name} {value:g}" for name, value in each)
        raise Diverged(
            f"the loss is {loss:g} at batch {number:g} ({told}); try a lower learning rate, or "
            "--on_nan skip where a few batches are to blame."
        )

    def _plus(self, name: str, value: Tensor) -> None:
        before = self._sums.get(name)
        self._sums[name] = value.double() if before is None else before.to(value.device) + value

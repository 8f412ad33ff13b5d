"""Mean loss, accuracy and speed of an epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from distillers.data.batch import Batch
from distillers.distillation.task import Step
from distillers.distributed.world import World
from distillers.errors import NonFiniteLossError


class EpochMetrics:
    """Sum the metrics of an epoch on the device, without waiting for it.

    Args:
        sums: `state` of an earlier process to continue from.
    """

    def __init__(self, sums: dict[str, Any] | None = None) -> None:
        nothing: dict[str, Any] = {"images": 0, "seconds": 0.0, "waited": 0.0, "skipped": 0}
        nothing["labelled"] = (sums or {}).get("images", 0)  # of a state of an earlier version
        sums = nothing | {"sums": {}} | (sums or {})
        self.images: int = sums["images"]
        self.labelled: int = sums["labelled"]
        self._of_labelled: set[str] = set(sums.get("of_labelled", ()))
        self.skipped: int = sums["skipped"]
        self._began = time.monotonic() - sums["seconds"]
        self._waited: float = sums["waited"]
        self._sums: dict[str, Tensor] = dict(sums["sums"])
        self._first_bad: Tensor | None = None  # batch, loss and parts where it first went wrong

    @torch.no_grad()
    def add(self, step: Step, batch: Batch, number: int = 0) -> None:
        """Add one step, that of batch `number`."""
        count, labelled = len(batch.labels), batch.num_labelled
        self.images += count
        self.labelled += labelled
        self._of_labelled |= {"train_acc", *(f"train_{name}" for name in step.labelled)}
        self._plus("train_loss", step.loss.detach() * count)
        for name, part in step.parts.items():
            self._plus(f"train_{name}", part * (labelled if name in step.labelled else count))
        self._note_non_finite(step, number)
        if step.logits is not None:
            self._plus("train_acc", 100 * (step.logits.argmax(1) == batch.labels).sum())

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and sum the time that the loop waits for them."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def compute(self, world: World | None = None) -> dict[str, float]:
        """Return the means so far; this waits for the device.

        `waited` is the fraction of the time that the loop waited for batches.

        Raises:
            NonFiniteLossError: if the loss was not finite, with its parts at the first such step.
        """
        return self.start_compute(world)()

    def start_compute(self, world: World | None = None) -> Callable[[], dict[str, float]]:
        """Start to copy the sums from the device, and return a function that waits and computes.

        Called after the next step was started, the function waits for the copy only.
        """
        here = float(self.images), float(self.labelled), self._sums
        images, labelled, sums = here if world is None else self._over(world)
        culprits = [] if self._first_bad is None else [*self._first_bad.double()]
        totals = [value.double() for value in sums.values()]
        copied = _to_host(torch.stack([*culprits, *totals])) if culprits or totals else list
        skipped, seconds = self.skipped, time.monotonic() - self._began
        waited = self._waited / seconds

        def compute() -> dict[str, float]:
            values = copied()
            self._raise_if_non_finite(values[: len(culprits)])
            if not images:
                raise NonFiniteLossError("no batch had a finite loss; try a lower learning rate.")
            each = zip(sums, values[len(culprits) :], strict=True)
            counts = dict.fromkeys(self._of_labelled, labelled)
            means = {name: value / n for name, value in each if (n := counts.get(name, images))}
            if not math.isfinite(means["train_loss"]):  # of another process
                raise NonFiniteLossError(
                    "the loss is not finite any more; try a lower learning rate."
                )
            if skipped:
                means["skipped"] = float(skipped)
            return {**means, "images_per_second": images / seconds, "waited": waited}

        return compute

    def state(self, world: World) -> dict[str, Any]:
        """Return the sums over all processes, to continue from; a collective call."""
        images, labelled, sums = self._over(world)
        return {
            "images": int(images),
            "labelled": int(labelled),
            "of_labelled": sorted(self._of_labelled),
            "seconds": time.monotonic() - self._began,
            "waited": self._waited,
            "skipped": self.skipped,
            "sums": {name: value.cpu() for name, value in sums.items()},
        }

    def _over(self, world: World) -> tuple[float, float, dict[str, Tensor]]:
        """Return the numbers of images and of labelled ones, and the sums, of all processes."""
        names = sorted(self._sums)
        if not names:
            return 0.0, 0.0, {}
        each = [self._sums[name].double() for name in names]
        counts = (torch.full_like(each[0], count) for count in (self.images, self.labelled))
        images, labelled, *totals = world.sum(torch.stack([*counts, *each])).unbind()
        return float(images), float(labelled), dict(zip(names, totals, strict=True))

    def _note_non_finite(self, step: Step, number: int) -> None:
        """Keep the parts of the loss of the first step at which it is not finite."""
        loss = step.loss.detach().float()
        parts = [part.float() for part in step.parts.values()]
        now = torch.stack([torch.full_like(loss, number), loss, *parts])
        if self._first_bad is None:
            self._names = list(step.parts)
            self._first_bad = now
        else:
            self._first_bad = torch.where(self._first_bad[1].isfinite(), now, self._first_bad)

    def _raise_if_non_finite(self, culprits: list[float]) -> None:
        if not culprits or math.isfinite(culprits[1]):
            return
        number, loss, *parts = culprits
        each = zip(self._names, parts, strict=True)
        terms = ", ".join(f"{name} {value:g}" for name, value in each)
        raise NonFiniteLossError(
            f"the loss is {loss:g} at batch {number:g} ({terms}); try a lower learning rate, or "
            "--on_nan skip where a few batches are to blame."
        )

    def _plus(self, name: str, value: Tensor) -> None:
        before = self._sums.get(name)
        self._sums[name] = value.double() if before is None else before.to(value.device) + value


def _to_host(values: Tensor) -> Callable[[], list[float]]:
    """Start to copy (m,) from its device, and return a function that waits and returns it."""
    copied = values.to("cpu", non_blocking=True)
    if not values.is_cuda:
        return copied.tolist
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values.device))

    def read() -> list[float]:
        done.synchronize()
        return copied.tolist()

    return read

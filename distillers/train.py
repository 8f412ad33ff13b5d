"""The loop: one way to train any task, readable from above."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distillers.average import Average
from distillers.data.batch import Batch
from distillers.distillation import Step
from distillers.errors import Diverged

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Task(Protocol):
    """All that the loop knows of what it trains; an `nn.Module` with these two."""

    def __call__(self, batch: Batch, progress: float) -> Step:
        """The loss of one batch; `progress` is the share of the training that is done."""
        ...

    def deployed(self) -> nn.Module:
        """The network that is scored and saved."""
        ...


class EpochLoader(Protocol):
    """A loader whose order is a function of its seed and the epoch."""

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, number: int, /) -> Iterator[Batch]:
        """The batches of an epoch; epochs count from 1."""
        ...


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: they count from 1.
        learning_rate: of the first epoch.
        milestones: after each of these epochs the rate is multiplied by `lr_decay_rate`.
        lr_decay_rate: see `milestones`.
        momentum: of SGD, without Nesterov as published.
        weight_decay: on every parameter but those that a loss names in `no_weight_decay`.
        precision: "fp32", "bf16" or "fp16" (with loss scaling).
        accumulate: batches to an optimiser step.
        clip_grad: the largest allowed norm of the gradient, or None.
        ema: decay of the averaged weights that are scored and saved, or None.
        compile: compile the step.
        print_freq: batches between two looks at the running loss.
    """

    epochs: int
    learning_rate: float
    milestones: tuple[int, ...] = ()
    lr_decay_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "fp32"
    accumulate: int = 1
    clip_grad: float | None = None
    ema: float | None = None
    compile: bool = False
    print_freq: int = 100

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch: it drops when the epoch is past a milestone."""
        passed = sum(epoch > milestone for milestone in self.milestones)
        return self.learning_rate * self.lr_decay_rate**passed


def fit(
    task: Any,
    loader: EpochLoader,
    plan: Plan,
    *,
    score: Callable[[nn.Module], dict[str, float]],
    keep: Callable[[dict[str, float], dict[str, Any], nn.Module], None],
    report: Callable[[int, int, dict[str, float]], None] = lambda *_: None,
    resumed: dict[str, Any] | None = None,
) -> None:
    """Train a task.

    A task with `warmup_epochs` W has a first stage: epochs 1 - W to 0, at the first learning rate,
    after which the optimiser starts afresh.

    Args:
        task: see `Task`.
        loader: the training batches.
        plan: how to train.
        score: the figures of a deployed network on held-out images, by name.
        keep: called after every epoch with its figures, the state that `resumed` takes, and the
            deployed network: records and saves.
        report: called every `plan.print_freq` batches with epoch, batch, and the figures so far.
        resumed: the state to go on from.

    Raises:
        Diverged: when the loss is not finite any more.
    """
    trainer = Trainer(task, plan)
    warmup_epochs = getattr(task, "warmup_epochs", 0)
    done = trainer.load_state(resumed) if resumed else -warmup_epochs
    for epoch in range(done + 1, plan.epochs + 1):
        if epoch == 1 and warmup_epochs:
            trainer.forget()
        figures = trainer.train_epoch(loader, epoch, report)
        with trainer.averaged():
            deployed = task.deployed()
            figures |= score(deployed)
            keep({"epoch": epoch, **figures}, trainer.state(epoch), deployed)


class Trainer:
    """A task with its optimiser, and everything else that shapes its future."""

    def __init__(self, task: Any, plan: Plan) -> None:
        self.task = task
        self.plan = plan
        self.device = next(task.parameters()).device
        self.forget()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=plan.precision == "fp16")
        self.average = Average(task, plan.ema) if plan.ema else None
        self._run = torch.compile(task) if plan.compile else task

    def forget(self) -> None:
        """Start with a new optimiser, without momentum."""
        groups = parameter_groups(self.task, self.plan.weight_decay)
        rate, momentum = self.plan.learning_rate, self.plan.momentum
        self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum)

    def train_epoch(
        self, loader: EpochLoader, epoch: int, report: Callable = lambda *_: None
    ) -> dict[str, float]:
        """One pass over the training set; its mean figures by name."""
        plan, batches = self.plan, len(loader)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(epoch)
        self.task.train()
        tally = Tally()
        order = epoch if epoch >= 1 else plan.epochs + 1 - epoch  # a first stage's own orders
        for number, batch in enumerate(loader.epoch(order), start=1):
            progress = self.progress(epoch - 1 + (number - 1) / batches)
            first = (number - 1) // plan.accumulate * plan.accumulate
            together = min(plan.accumulate, batches - first)
            tally.add(self.backward(batch, progress, together), batch)
            if number == first + together:
                self.step()
            if number % plan.print_freq == 0:
                report(epoch, number, tally.figures())
        return {**tally.figures(), "lr": plan.rate(epoch)}

    def progress(self, epochs: float) -> float:
        """The share of the training that is done after so many epochs.

        Where the task does not read it, one constant a stage: a step that is compiled would else
        be compiled again for a number that it ignores.
        """
        if not getattr(self.task, "reads_progress", True):
            return -1.0 if epochs < 0 else 0.0
        return epochs / self.plan.epochs

    def backward(self, batch: Batch, progress: float, together: int = 1) -> Step:
        """Add a batch's gradient, as one of `together` that share an optimiser step."""
        with self._autocast():
            step = self._run(batch, progress)
        self.scaler.scale(step.loss / together).backward()
        return step

    def step(self) -> None:
        """Move the weights."""
        if self.plan.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.task.parameters(), self.plan.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()

    def averaged(self) -> contextlib.AbstractContextManager:
        """Inside, the task has its averaged weights where an average is kept."""
        return self.average.swapped() if self.average else contextlib.nullcontext()

    def state(self, epoch: int) -> dict[str, Any]:
        """Everything that the rest of the run depends on, after `epoch`, in plain types."""
        average = self.average
        return {
            "epoch": epoch,
            "task": average.raw() if average else self.task.state_dict(),
            "average": average.state() if average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state(self, state: dict[str, Any]) -> int:
        """Take up a `state`; the epoch that it was taken after."""
        self.task.load_state_dict(state["task"])
        if self.average:
            self.average.load_state(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if len(state["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng_cuda"])
        return state["epoch"]

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = PRECISIONS[self.plan.precision]
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()


class Tally:
    """Sums over an epoch that stay on the device until somebody looks."""

    def __init__(self) -> None:
        self.images = 0
        self._began = time.monotonic()
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, step: Step, batch: Batch) -> None:
        """Count one step."""
        count = len(batch.labels)
        self.images += count
        self._plus("train_loss", step.loss.detach() * count)
        for name, part in step.parts.items():
            self._plus(f"train_{name}", part * count)
        if step.logits is not None:
            self._plus("train_acc", 100 * (step.logits.argmax(1) == batch.labels).sum())

    def figures(self) -> dict[str, float]:
        """The means so far; this waits for the device.

        Raises:
            Diverged: when the loss is not finite, with its parts.
        """
        names = list(self._sums)
        sums = torch.stack([self._sums[name].double() for name in names]).tolist()
        means = {name: value / self.images for name, value in zip(names, sums, strict=True)}
        if not math.isfinite(means["train_loss"]):
            parts = ", ".join(f"{n[6:]} {v:g}" for n, v in means.items() if n != "train_acc")
            raise Diverged(f"the loss is not finite any more ({parts}); try a lower learning rate.")
        return {**means, "images_per_second": self.images / (time.monotonic() - self._began)}

    def _plus(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value.double()


def parameter_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: with weight decay, and those named to go without.

    A module names the latter in its attribute `no_weight_decay`, a tuple of parameters' names.
    """
    exempt = {
        id(module.get_parameter(name))
        for module in task.modules()
        for name in _names_without_decay(module)
    }
    trainable = [p for p in task.parameters() if p.requires_grad]
    decayed = [p for p in trainable if id(p) not in exempt]
    free = [p for p in trainable if id(p) in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def _names_without_decay(module: nn.Module) -> tuple[str, ...]:
    names = getattr(module, "no_weight_decay", ())
    return tuple(names) if isinstance(names, tuple) else ()

"""The loop: one way to train any task, readable from above."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from distillers.config.plan import Plan as Plan
from distillers.data.batch import Batch
from distillers.data.source import BatchLoader
from distillers.distillation.task import Step
from distillers.distributed.world import World
from distillers.training.ddp import DDPRunner, SingleProcess
from distillers.training.ema import Average
from distillers.training.fsdp import FSDPRunner, full_state, load_full_state, load_optimizer
from distillers.training.metrics import EpochMetrics
from distillers.training.nan_guard import NaNGuard
from distillers.training.optim import parameter_groups
from distillers.training.preemption import Interrupts, ignore
from distillers.training.rng_state import generator_state, set_generators

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Task(Protocol):
    """All that the loop knows of what it trains; an `nn.Module` with these two."""

    def __call__(self, batch: Batch, progress: float) -> Step:
        """The loss of one batch; `progress` is the share of the training that is done."""
        ...

    def deployed(self) -> nn.Module:
        """The network that is scored and saved."""
        ...


def fit(
    task: Any,
    loader: BatchLoader,
    plan: Plan,
    *,
    score: Callable[[nn.Module], dict[str, float]],
    keep: Callable[[dict[str, float], dict[str, Any], nn.Module], None],
    report: Callable[[int, int, dict[str, float]], None] = lambda *_: None,
    resumed: dict[str, Any] | None = None,
    world: World | None = None,
    interrupts: Interrupts | None = None,
) -> nn.Module:
    """Train a task; the deployed network with its last weights, not averaged.

    A task with `warmup_epochs` W has a first stage: epochs 1 - W to 0, at the first learning rate,
    after which the optimiser starts afresh.

    Args:
        task: see `Task`.
        loader: the training batches, this process's part of them.
        plan: how to train.
        score: the figures of a deployed network on held-out images, by name, the same in every
            process.
        keep: called after every epoch with its figures, the state that `resumed` takes, and the
            deployed network: records and saves. Of several processes only the first is asked.
        report: called every `plan.print_freq` batches with epoch, batch, and the figures so far,
            of this process alone.
        resumed: the state to go on from, the same in every process.
        world: the processes that train accumulation; this one alone where left out.
        interrupts: asked after every step whether to save and stop.

    Raises:
        NonFiniteLossError: when the loss is not finite any more.
        PreemptedError: when `interrupts` has it so.
        PeerLostError: when other processes are gone.
    """
    trainer = Trainer(task, plan, world)
    interrupts = interrupts or Interrupts(trainer.world, ignore)
    start = trainer.load_state(resumed) if resumed else TrainProgress(-trainer.warmup_epochs)
    while start.epoch < plan.epochs:
        figures = trainer.train_epoch(loader, start, report, interrupts)
        trained = TrainProgress(start.epoch, len(loader))
        scoring = interrupts.scoring(lambda position=trained: trainer.snapshot(position))
        with scoring, trainer.averaged():
            deployed = trainer.run.deployed()
            figures |= score(deployed)
            start = TrainProgress(start.epoch + 1)
            state = trainer.state(start)
            if trainer.world.is_first:
                keep({"epoch": start.epoch, **figures}, state, deployed)
    return trainer.run.deployed()


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is.

    Attributes:
        epoch: the last epoch that is done, scored and kept.
        batch: batches of the next one that are done.
        sums: those of its `EpochMetrics`, over all processes.
    """

    epoch: int
    batch: int = 0
    sums: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """A task with its optimiser, and everything else that shapes its future.

    Args:
        task: see `Task`.
        plan: how to train.
        world: the processes that train accumulation; this one alone where left out.
    """

    def __init__(self, task: Any, plan: Plan, world: World | None = None) -> None:
        self.task = task
        self.plan = plan
        self.device = next(task.parameters()).device
        self.world = world or World(device=self.device)
        self.warmup_epochs = getattr(task, "warmup_epochs", 0)
        self.run = parallel(task, plan, self.world)
        self.reset_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=plan.precision == "fp16")
        self.average = Average(task, plan.ema) if plan.ema else None
        self.metrics = EpochMetrics()
        self.nan_guard = NaNGuard(task, self.world) if plan.on_nan == "skip" else None

    def reset_optimizer(self) -> None:
        """Start with a new optimiser, without momentum."""
        groups = parameter_groups(self.task, self.plan.weight_decay)
        rate, momentum = self.plan.learning_rate, self.plan.momentum
        # one kernel, and the scale of fp16 is looked at on the GPU
        fused = self.device.type == "cuda" and not self.plan.shard
        self.optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=fused)

    def train_epoch(
        self,
        loader: BatchLoader,
        start: TrainProgress,
        report: Callable = lambda *_: None,
        interrupts: Interrupts | None = None,
    ) -> dict[str, float]:
        """The rest of an epoch; its mean figures by name.

        Args:
            loader: the batches.
            start: after how much of it.
            report: see `fit`.
            interrupts: see `fit`.
        """
        plan, batches, epoch = self.plan, len(loader), start.epoch + 1
        if epoch == 1 and self.warmup_epochs and not start.batch:
            self.reset_optimizer()
            self.run = parallel(self.task, plan, self.world)  # other parameters learn from here on
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(epoch)
        self.task.train()
        self.metrics = EpochMetrics(start.sums if self.world.is_first else None)
        order = epoch if epoch >= 1 else plan.epochs + 1 - epoch  # a first stage's own orders
        look: Callable[[], dict[str, float]] | None = None
        given = self.metrics.timed(loader.epoch(order, start.batch))
        for number, batch in enumerate(given, start=start.batch + 1):
            first = (number - 1) // plan.accumulate * plan.accumulate
            accumulation = min(plan.accumulate, batches - first)
            with self.world.at(f"epoch {epoch}, batch {number}"):
                progress = self.progress(epoch - 1 + (number - 1) / batches)
                self.training_step(
                    batch, progress, number, accumulation, number == first + accumulation
                )
                if interrupts and number == first + accumulation:
                    done = TrainProgress(start.epoch, number)
                    interrupts.after_step(lambda done=done: self.snapshot(done))
            if look:  # a step late, so that the device has something to do meanwhile
                report(epoch, number - 1, look())
            asked = number % plan.print_freq == 0 and self.world.is_first
            look = self.metrics.start_compute() if asked else None
        if look:
            report(epoch, batches, look())
        return {**self.metrics.compute(self.world), "lr": plan.rate(epoch)}

    def training_step(
        self,
        batch: Batch,
        progress: float,
        number: int,
        accumulation: int = 1,
        is_last: bool = True,
    ) -> None:
        """Learn from one batch.

        Args:
            batch: the images.
            progress: see `Task`.
            number: of the batch in its epoch, from 1.
            accumulation: batches that share an optimiser step.
            is_last: whether this is the last of them.
        """
        if self.nan_guard:
            self.nan_guard.snapshot()
        step = self.backward(batch, progress, accumulation)
        if self.nan_guard and self.nan_guard.is_non_finite(step.loss, not self.scaler.is_enabled()):
            self.nan_guard.rollback()
            self.metrics.skipped += 1
            return
        self.metrics.add(step, batch, number)
        if is_last:
            self.step()

    def progress(self, epochs: float) -> float:
        """The share of the training that is done after so many epochs.

        Where the task does not read it, one constant a stage: a step that is compiled would else
        be compiled again for a number that it ignores.
        """
        if not getattr(self.task, "reads_progress", True):
            return -1.0 if epochs < 0 else 0.0
        return epochs / self.plan.epochs

    def backward(self, batch: Batch, progress: float, accumulation: int = 1) -> Step:
        """Add a batch's gradient, as one of `accumulation` that share an optimiser step."""
        with self._autocast():
            step = self.run(batch, progress)
        self.scaler.scale(step.loss * (batch.share / accumulation)).backward()
        return step

    def step(self) -> None:
        """Move the weights."""
        if self.plan.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            self.run.clip(self.plan.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.run.after_step()
        if self.average:
            self.average.update()

    def averaged(self) -> contextlib.AbstractContextManager:
        """Inside, the task has its averaged weights where an average is kept."""
        return self.average.swapped() if self.average else contextlib.nullcontext()

    def state(self, position: TrainProgress) -> dict[str, Any]:
        """All that the rest of the run depends on, in plain types; all processes must ask."""
        average = self.average
        return {
            "epoch": position.epoch,
            "batch": position.batch,
            "sums": self.metrics.state(self.world) if position.batch else {},
            "world_size": self.world.size,
            "precision": self.plan.precision,
            "task": full_state(average.raw() if average else self.task.state_dict()),
            "average": full_state(average.state()) if average else None,
            "optimizer": full_state(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "generators": self.world.gather(generator_state(self.device)),
        }

    def snapshot(self, position: TrainProgress) -> tuple[dict[str, Any], nn.Module]:
        """The state, and the network that would be deployed now; all processes must ask."""
        with self.averaged():
            deployed = self.run.deployed()
            return self.state(position), copy.deepcopy(deployed) if self.average else deployed

    def load_state(self, state: dict[str, Any]) -> TrainProgress:
        """Take up a `state`, perhaps of another number of processes; where it was taken.

        Raises:
            InputError: for the state of another network or method.
        """
        load_full_state(self.task, state["task"])
        if self.average:
            self.average.load_state(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        generators = state["generators"]
        if self.world.rank < len(generators):
            set_generators(generators[self.world.rank], self.device)
        return TrainProgress(state["epoch"], state["batch"], state["sums"])

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = PRECISIONS[self.plan.precision]
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()


def parallel(task: Any, plan: Plan, world: World) -> SingleProcess | DDPRunner | FSDPRunner:
    """The task as it runs in step with those of the other processes."""
    if world.size == 1:
        return SingleProcess(task, plan.compile)
    return (FSDPRunner if plan.shard else DDPRunner)(task, world, plan.compile)

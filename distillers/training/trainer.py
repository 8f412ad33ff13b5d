"""The training loop."""

import contextlib
import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from distillers.config.hyperparameters import DOT as DOT_NAME
from distillers.config.hyperparameters import Hyperparameters as Hyperparameters
from distillers.data.batch import Batch
from distillers.data.source import BatchLoader
from distillers.distillation.task import Step, Task
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.training.ddp import DDPRunner, SingleProcess, TaskRunner
from distillers.training.dot import DOT
from distillers.training.ema import ExponentialMovingAverage
from distillers.training.fsdp import FSDPRunner, full_state, load_full_state, load_optimizer
from distillers.training.metrics import EpochMetrics
from distillers.training.nan_guard import NaNGuard
from distillers.training.optim import build_optimizer
from distillers.training.preemption import PreemptionHandler, ignore
from distillers.training.schedule import Schedule
from distillers.training.state import TrainProgress, TrainState, generator_state, set_generators

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Metrics = dict[str, float]
Evaluate = Callable[[nn.Module], Metrics]
OnEpochEnd = Callable[[Metrics, TrainState, nn.Module], None]
OnLog = Callable[[int, int, Metrics], None]


def fit(
    task: Task,
    loader: BatchLoader,
    hparams: Hyperparameters,
    *,
    evaluate: Evaluate = lambda _: {},
    on_epoch_end: OnEpochEnd = ignore,
    on_log: OnLog = ignore,
    resumed: TrainState | None = None,
    world: World | None = None,
    preemption: PreemptionHandler | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> nn.Module:
    """Train a task and return the deployed network with its last weights, not averaged.

    A task with `warmup_epochs` W > 0 is first trained for W epochs of its warm-up stage, at the
    learning rate of the first epoch. The optimizer is created anew afterwards.

    Args:
        task: what is trained.
        loader: training batches of this process.
        hparams: hyper-parameters of the training.
        evaluate: maps a deployed network to metrics on held-out images, by name; must return the
            same in every process.
        on_epoch_end: called with the metrics, the state and the deployed network after every epoch,
            in the first process only.
        on_log: called with epoch, batch and the running metrics of this process every
            `hparams.print_freq` batches.
        resumed: state to continue from, the same in every process.
        world: processes that train together; this one alone by default.
        preemption: asked after every step whether to save and stop.
        should_stop: asked in the first process before every epoch whether to end the training; if
            one process has it, all must.

    Raises:
        NonFiniteLossError: if the loss is not finite.
        PreemptedError: if a signal stopped the run; its state was saved.
        PeerLostError: if other processes do not respond.
    """
    trainer = Trainer(task, hparams, world)
    preemption = preemption or PreemptionHandler(trainer.world, ignore)
    start = trainer.load_state(resumed) if resumed else TrainProgress(-task.warmup_epochs)
    while start.epoch < hparams.epochs:
        if should_stop and trainer.world.broadcast_object(should_stop()):
            break
        metrics = trainer.train_epoch(loader, start, on_log, preemption)
        trained = TrainProgress(start.epoch, len(loader))
        scoring = preemption.evaluating(lambda trained=trained: trainer.snapshot(trained))
        with scoring, trainer.averaged():
            deployed = trainer.runner.deployed()
            metrics |= evaluate(deployed)
            start = TrainProgress(start.epoch + 1)
            state = trainer.state(start)
            if trainer.world.is_first:
                on_epoch_end({"epoch": start.epoch, **metrics}, state, deployed)
    return trainer.runner.deployed()


class Trainer:
    """A task with its optimizer, averaged weights, gradient scaler and metrics."""

    def __init__(self, task: Task, hparams: Hyperparameters, world: World | None = None) -> None:
        self.task = task
        self.hparams = hparams
        if not any(parameter.requires_grad for parameter in task.parameters()):
            raise InputError(
                f"{type(task.deployed()).__name__} has no trainable parameter (requires_grad)."
            )
        self.device = next(task.parameters()).device
        self.world = world or World(device=self.device)
        task.splits_loss = hparams.opt == DOT_NAME
        self.runner = build_runner(task, hparams, self.world)
        self.reset_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=hparams.precision == "fp16")
        self.ema = ExponentialMovingAverage(task, hparams.ema) if hparams.ema else None
        self.metrics = EpochMetrics()
        self.nan_guard = NaNGuard(task, self.world) if hparams.on_nan == "skip" else None

    def reset_optimizer(self) -> None:
        """Create a new optimizer, without momentum."""
        self.optimizer = build_optimizer(self.task, self.hparams)

    def train_epoch(
        self,
        loader: BatchLoader,
        start: TrainProgress,
        on_log: OnLog = ignore,
        preemption: PreemptionHandler | None = None,
    ) -> Metrics:
        """Train the rest of an epoch and return its mean metrics by name."""
        hparams, num_batches, epoch = self.hparams, len(loader), start.epoch + 1
        self._start_epoch(start)
        schedule = Schedule(self.optimizer, hparams, math.ceil(num_batches / hparams.accumulate))
        schedule.set(epoch)
        rate = schedule.rate
        pending: Callable[[], Metrics] | None = None
        batches = self.metrics.timed(loader.epoch(self._order(epoch), start.batch))
        for number, batch in enumerate(batches, start=start.batch + 1):
            first = (number - 1) // hparams.accumulate * hparams.accumulate
            accumulation = min(hparams.accumulate, num_batches - first)
            schedule.set(epoch, first // hparams.accumulate)
            is_last = number == first + accumulation
            with self.world.at(f"epoch {epoch}, batch {number}"):
                progress = self.progress(epoch, (number - 1) / num_batches)
                self.training_step(batch, progress, number, accumulation, is_last)
                if preemption and is_last:
                    done = TrainProgress(start.epoch, number)
                    preemption.after_step(lambda done=done: self.snapshot(done))
            if pending:  # one step late, so that the device does not wait for the copy
                on_log(epoch, number - 1, pending())
            is_due = number % hparams.print_freq == 0 and self.world.is_first
            pending = self.metrics.start_compute() if is_due else None
        if pending:
            on_log(epoch, num_batches, pending())
        return {**self.metrics.compute(self.world), "lr": rate}

    def training_step(
        self,
        batch: Batch,
        progress: float,
        number: int,
        accumulation: int = 1,
        is_last: bool = True,
    ) -> None:
        """Train on batch `number`, from 1, one of `accumulation` that share an optimizer step."""
        if self.nan_guard:
            self.nan_guard.snapshot()
        step = self.backward(batch, progress, accumulation)
        if self.nan_guard and self.nan_guard.is_non_finite(step.loss, not self.scaler.is_enabled()):
            self.nan_guard.rollback()
            self.optimizer.zero_grad()
            self.metrics.skipped += 1
            return
        self.metrics.add(step, batch, number)
        if is_last:
            self.optimizer_step()

    def progress(self, epoch: int, within: float) -> float:
        """Return the fraction of the current stage that is done, in [0, 1).

        It is 0 for a task that does not read it: a compiled step would be compiled again for a
        changing number.
        """
        if not self.task.reads_progress:
            return 0.0
        if epoch < 1:
            return (epoch - 1 + self.task.warmup_epochs + within) / self.task.warmup_epochs
        return (epoch - 1 + within) / self.hparams.epochs

    def backward(self, batch: Batch, progress: float, accumulation: int = 1) -> Step:
        """Add the gradient of one of `accumulation` batches that share an optimizer step."""
        with self._autocast():
            step = self.runner(batch, progress)
        if not step.loss.requires_grad:
            name = type(self.task.deployed()).__name__
            raise InputError(
                f"the loss has no gradient: no trainable parameter of {name} affects it in "
                "training mode; give a network that computes its output with gradient."
            )
        factor = batch.share / accumulation
        if isinstance(self.optimizer, DOT):
            self._backward_split(step, factor)
        else:
            self.scaler.scale(step.loss * factor).backward()
        return step

    def _backward_split(self, step: Step, factor: float) -> None:
        """Add the gradients of both parts of the loss, for DOT."""
        assert isinstance(self.optimizer, DOT)
        if step.label_loss is None or step.teacher_loss is None:  # one momentum for all
            self.scaler.scale(step.loss * factor).backward()
            return
        self.optimizer.add_teacher_gradient(self.scaler.scale(step.teacher_loss * factor))
        self.scaler.scale(step.label_loss * factor).backward()
        if self.scaler.is_enabled() or self.nan_guard:  # which look at `grad`
            self.optimizer.spread_non_finite()

    def optimizer_step(self) -> None:
        """Update the weights by the accumulated gradient."""
        if isinstance(self.optimizer, DOT) and self.world.size > 1:
            self.optimizer.average(self.world)
        if self.hparams.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            self.runner.clip_grad(self.hparams.clip_grad, self.hparams.clip_mode)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.runner.after_step()
        if self.ema:
            self.ema.update()

    def averaged(self) -> contextlib.AbstractContextManager:
        """Give the task its averaged weights inside the context, where an average is kept."""
        return self.ema.swapped() if self.ema else contextlib.nullcontext()

    def state(self, progress: TrainProgress) -> TrainState:
        """Return the state to resume from; a collective call."""
        ema = self.ema
        return TrainState(
            epoch=progress.epoch,
            batch=progress.batch,
            metrics=self.metrics.state(self.world) if progress.batch else {},
            world_size=self.world.size,
            precision=self.hparams.precision,
            task=full_state(ema.raw() if ema else self.task.state_dict()),
            ema=full_state(ema.state()) if ema else None,
            optimizer=full_state(self.optimizer.state_dict()),
            scaler=self.scaler.state_dict(),
            rng=self.world.gather(generator_state(self.device)),
        )

    def snapshot(self, progress: TrainProgress) -> tuple[TrainState, nn.Module]:
        """Return the state and the network that would be deployed now; a collective call."""
        with self.averaged():
            deployed = self.runner.deployed()
            return self.state(progress), copy.deepcopy(deployed) if self.ema else deployed

    def load_state(self, state: TrainState) -> TrainProgress:
        """Load a state, also one of another number of processes, and return where it was taken.

        Raises:
            InputError: if it is the state of another network or method.
        """
        load_full_state(self.task, state.task)
        if self.ema and state.ema is not None:
            self.ema.load_state(state.ema)
        load_optimizer(self.optimizer, state.optimizer)
        self.scaler.load_state_dict(state.scaler)
        if self.world.rank < len(state.rng):
            set_generators(state.rng[self.world.rank], self.device)
        return state.progress

    def _start_epoch(self, start: TrainProgress) -> None:
        """Prepare stage, mode and metrics of the epoch after `start`."""
        epoch = start.epoch + 1
        if self.task.warmup_epochs:
            self.task.stage = "train" if epoch >= 1 else "warmup"
            if epoch == 1 and not start.batch:
                self.reset_optimizer()
                self.runner = build_runner(self.task, self.hparams, self.world)  # other gradients
        self.task.train()
        self.metrics = EpochMetrics(start.metrics if self.world.is_first else None)

    def _order(self, epoch: int) -> int:
        """Return which of the loader's epochs to read; those of a warm-up stage are its own."""
        return epoch if epoch >= 1 else self.hparams.epochs + 1 - epoch

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = PRECISIONS[self.hparams.precision]
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()


def build_runner(task: Task, hparams: Hyperparameters, world: World) -> TaskRunner:
    """Return what runs the task in step with those of the other processes."""
    if world.size == 1:
        return SingleProcess(task, hparams.compile)
    return (FSDPRunner if hparams.shard else DDPRunner)(task, world, hparams.compile)

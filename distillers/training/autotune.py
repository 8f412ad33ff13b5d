"""Time a run's own training step: in each precision, and compiled."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from distillers.config.hyperparameters import Hyperparameters, Precision
from distillers.config.sizes import pluralize
from distillers.data.batch import Batch
from distillers.distillation.task import Task
from distillers.timing import synchronize, time_interleaved
from distillers.training.state import generator_state, set_generators
from distillers.training.trainer import Trainer

ROUNDS = 5
MAX_SHARE = 0.95  # of the time, for a lower precision to be chosen


@dataclass(frozen=True)
class Choice:
    """The chosen precision, and the median milliseconds of a step in each."""

    precision: str
    milliseconds: dict[str, float]

    def __str__(self) -> str:
        each = ", ".join(f"{name} {ms:,.1f} ms" for name, ms in self.milliseconds.items())
        return f"precision: {self.precision} (a step took {each})"


def choose(task: Task, batch: Batch, hparams: Hyperparameters) -> Choice:
    """Return the precision of the fastest step of a task on its device.

    A few whole steps, not compiled, are timed in each precision. A lower one is only chosen if it
    saves time. Afterwards the task, its gradients and all random number generators have their
    earlier state, to the bit.
    """
    device = batch.images.device
    tried = replace(hparams, learning_rate=0.0, compile=False, ema=None, on_nan="stop", shard=False)
    with restored(task, device):
        task.train()
        steps: dict[str, Callable[[], None]] = {
            name: _step(task, batch, tried, name) for name in candidates(device)
        }
        seconds = time_interleaved(steps, ROUNDS, device, warm_up=2)
    took = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    return Choice(best_of(took), took)


def best_of(took: dict[str, float]) -> str:
    """Return the name of the shortest time; a later name must save 5 % over an earlier one."""
    best = next(iter(took))
    for name, taken in took.items():
        if taken < MAX_SHARE * took[best]:
            best = name
    return best


def candidates(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions that a device supports, the highest first."""
    if device.type != "cuda":
        return ("fp32", "bf16")
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("fp32", "bf16", "fp16") if has_bf16 else ("fp32", "fp16")


@dataclass(frozen=True)
class CompileCost:
    """What compiling the step of a run costs and saves.

    Attributes:
        seconds: what the first, compiling step took longer than a later one.
        eager_ms: median milliseconds of a step that is not compiled.
        compiled_ms: median milliseconds of a compiled step.
        num_steps: steps of an epoch.
        num_epochs: epochs of the run.
    """

    seconds: float
    eager_ms: float
    compiled_ms: float
    num_steps: int
    num_epochs: int

    @property
    def epochs_to_pay(self) -> float:
        """Epochs after which compiling has saved as much as it cost; infinite if it saves none."""
        saved = self.num_steps * (self.eager_ms - self.compiled_ms) / 1000
        return math.ceil(self.seconds / saved) if saved > 0 else math.inf

    def __str__(self) -> str:
        steps = f"{self.compiled_ms:,.1f} instead of {self.eager_ms:,.1f} ms a step"
        text = f"--compile took {self.seconds:,.1f} s, for {steps}: "
        if self.epochs_to_pay == math.inf:
            return text + "it saves nothing here; leave it out"
        steps = pluralize(self.num_steps, "step")
        text += f"it pays after {pluralize(self.epochs_to_pay, 'epoch')} of {steps}"
        if self.epochs_to_pay <= self.num_epochs:
            return text
        return f"{text}, and this run has {self.num_epochs:,}; leave it out"


def compile_cost(task: Task, batch: Batch, hparams: Hyperparameters, num_steps: int) -> CompileCost:
    """Return what compiling the step of a run of one process costs and saves, on this batch.

    Afterwards the task, its gradients and all random number generators have their earlier state;
    what was compiled serves the run.
    """
    device, precision = batch.images.device, hparams.precision
    assert precision != "auto"  # it has been chosen
    tried = replace(hparams, learning_rate=0.0, ema=None, on_nan="stop")
    with restored(task, device):
        task.train()
        steps = {
            compiled: _step(task, batch, replace(tried, compile=compiled), precision)
            for compiled in (False, True)
        }
        start = time.perf_counter()
        steps[True]()
        synchronize(device)
        first = time.perf_counter() - start
        taken = time_interleaved(steps, ROUNDS, device)
    eager, compiled = (statistics.median(taken[each]) for each in (False, True))
    return CompileCost(
        max(0.0, first - compiled), 1000 * eager, 1000 * compiled, num_steps, hparams.epochs
    )


@contextmanager
def restored(task: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the tensors, gradients and modes of a task and all generators after the context."""
    before = {name: tensor.detach().clone() for name, tensor in _tensors(task)}
    gradients = {name: p.grad for name, p in task.named_parameters()}
    modes = {module: module.training for module in task.modules()}
    generators = generator_state(device)
    for parameter in task.parameters():
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(task):
                tensor.copy_(before[name])
        for name, parameter in task.named_parameters():
            parameter.grad = gradients[name]
        for module, mode in modes.items():
            module.training = mode
        set_generators(generators, device)


def _step(
    task: Task, batch: Batch, hparams: Hyperparameters, precision: Precision
) -> Callable[[], None]:
    trainer = Trainer(task, replace(hparams, precision=precision))

    def run() -> None:
        trainer.backward(batch, 0.0)
        trainer.optimizer_step()

    return run


def _tensors(task: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from task.named_parameters()
    yield from task.named_buffers()

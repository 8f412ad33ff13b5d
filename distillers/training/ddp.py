"""Run a task in one process, or in several by DistributedDataParallel."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from distillers.data.batch import Batch
from distillers.distillation.task import Step, Task
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.training.optim import clip_gradient

# What newer versions of PyTorch call `broadcast_buffers`.
_OPTION = "forward_sync_buffers"
_KNOWN = inspect.signature(DistributedDataParallel).parameters
WITHOUT_BUFFERS: dict[str, Any] = {_OPTION if _OPTION in _KNOWN else "broadcast_buffers": False}


class TaskRunner:
    """Run a task; each subclass does it in another way.

    Attributes:
        task: the task.
    """

    task: Task
    _run: Callable[[Batch, float], Step]
    _statistics: "Statistics | None" = None

    def __call__(self, batch: Batch, progress: float) -> Step:
        """Compute the loss of this process's part of a batch."""
        return self._run(batch, progress)

    def after_step(self) -> None:
        """Average the running statistics of batch normalization over the processes."""
        if self._statistics:
            self._statistics.average()

    def deployed(self) -> nn.Module:
        """Return the network to evaluate and save; a collective call."""
        return self.task.deployed()

    def clip_grad(self, limit: float, mode: str) -> None:
        """Clip the gradient; see `Hyperparameters.clip_mode`."""
        clip_gradient(self.task, limit, mode)


class SingleProcess(TaskRunner):
    """Run a task in a single process.

    Compiled on a GPU it uses CUDA graphs, so that the next step overwrites its results.
    """

    def __init__(self, task: Task, compiled: bool = False) -> None:
        self.task = task
        self._graphs = compiled and next(task.parameters()).is_cuda
        mode = "reduce-overhead" if self._graphs else None
        self._run = torch.compile(task, mode=mode) if compiled else task

    @override
    def __call__(self, batch: Batch, progress: float) -> Step:
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return self._run(batch, progress)


class DDPRunner(TaskRunner):
    """Run a copy of a task in each process and average the gradients (DistributedDataParallel).

    The running statistics of batch normalization are averaged after every step, too, so that all
    copies are equal and any of them can be saved. Losses keep their memories equal themselves, see
    `distillers.distributed.collectives`.
    """

    def __init__(self, task: Task, world: World, compiled: bool = False) -> None:
        self.task = task
        for buffer in task.buffers():
            dist.broadcast(buffer, 0)
        self._statistics = Statistics(task, world)
        if task.splits_loss:  # DDP averages one gradient; `DOT` averages its two itself
            for parameter in task.parameters():
                dist.broadcast(parameter.data, 0)
            self._run = torch.compile(task) if compiled else task
            return
        # a static graph: the first step finds parameters without gradient, as a dropped classifier
        replica = DistributedDataParallel(
            task, static_graph=True, gradient_as_bucket_view=True, **WITHOUT_BUFFERS
        )
        self._run = torch.compile(replica) if compiled else replica


class Statistics:
    """Running means and variances of batch normalization, kept equal in all processes."""

    def __init__(self, task: nn.Module, world: World) -> None:
        self._world = world
        self._modules = [
            module
            for module in task.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        ]

    @torch.no_grad()
    def average(self) -> None:
        """Average the statistics of layers in training mode over all processes."""
        each = [
            statistic
            for module in self._modules
            if module.training
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]
        if not each:
            return
        flat = self._world.sum(torch.cat(each)).div_(self._world.size)
        torch._foreach_copy_(each, list(flat.split([len(part) for part in each])))


def convert_sync_batchnorm(net: nn.Module, world: World) -> nn.Module:
    """Convert batch normalization to SyncBatchNorm, which PyTorch supports on GPUs only."""
    if world.device.type != "cuda":
        raise InputError("--sync_bn needs GPUs: PyTorch's SyncBatchNorm has no version for CPUs.")
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)

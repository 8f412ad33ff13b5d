"""Shard the weights, gradients and optimizer state of a task across processes (FSDP2)."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from typing_extensions import override

from distillers.distillation.task import Task
from distillers.distributed.world import World
from distillers.errors import InputError
from distillers.training.ddp import Statistics, TaskRunner

LARGE = 200_000_000  # parameters from which a frozen network is sharded, too


class FSDPRunner(TaskRunner):
    """Run a task whose parameters are sharded, so that each process holds a part of each.

    The children of `Task.networks` and the whole task are units of `fully_shard`, whose weights are
    gathered while they run. The network to evaluate and save is gathered in a copy of the deployed
    network. Scalar parameters are not sharded.
    """

    def __init__(self, task: Task, world: World, compiled: bool = False) -> None:
        self.task = task
        self.world = world
        for tensor in (*task.parameters(), *task.buffers()):
            dist.broadcast(tensor.detach(), 0)
        deployed = task.deployed()
        names = {id(tensor): name for name, tensor in task.state_dict(keep_vars=True).items()}
        state = deployed.state_dict(keep_vars=True)
        self._sources = {key: names[id(tensor)] for key, tensor in state.items()}
        self._deployed = copy.deepcopy(deployed)
        self._statistics = Statistics(task, world)
        mesh = init_device_mesh(world.device.type, (world.size,))
        numbers = {p for p in task.parameters() if p.ndim == 0}
        for net in task.networks():
            _shard_network(net, mesh)
        fully_shard(task, mesh=mesh, ignored_params=numbers)
        for parameter in numbers:
            parameter.register_post_accumulate_grad_hook(self._average_gradient)
        self._run = torch.compile(task) if compiled else task

    @override
    def deployed(self) -> nn.Module:
        state = full_state(self.task.state_dict())
        self._deployed.load_state_dict({key: state[name] for key, name in self._sources.items()})
        return self._deployed

    @override
    def clip_grad(self, limit: float, mode: str) -> None:
        gradients = [p.grad for p in self.task.parameters() if p.grad is not None]
        if mode == "value":
            for grad in gradients:
                grad.clamp_(-limit, limit)
            return
        norms = [_full_tensor(torch.linalg.vector_norm(grad)) for grad in gradients]
        total = torch.linalg.vector_norm(torch.stack(norms))
        factor = (limit / (total + 1e-6)).clamp(max=1.0)
        for grad in gradients:
            grad.mul_(factor)

    def _average_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None  # the hook runs when it was made
        dist.all_reduce(parameter.grad)
        parameter.grad /= self.world.size


def full_state(state: Any) -> Any:
    """Return a state with every sharded tensor gathered; a collective call."""
    if isinstance(state, dict):
        return {key: full_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(full_state(value) for value in state)
    return _full_tensor(state)


@torch.no_grad()
def load_full_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state without sharded tensors into a module that may be sharded."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or other:
        wrong = ", ".join([*missing, *unexpected, *sorted(other)][:4])
        raise InputError(f"the checkpoint is of another network or method: see {wrong}.")
    module.load_state_dict({key: _sharded(state[key], own[key]) for key in own})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state without sharded tensors into an optimizer of sharded parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    each = {
        number: {key: _sharded(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": each})


def _sharded(value: Any, like: Tensor) -> Any:
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def _full_tensor(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shard_network(net: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the children of a network; of a frozen one only if it is large, and itself."""
    is_frozen = not any(p.requires_grad for p in net.parameters())
    if is_frozen and sum(p.numel() for p in net.parameters()) < LARGE:
        return
    for module in _units(net):
        fully_shard(module, mesh=mesh)
    if is_frozen:  # a trained network is part of the task, which is sharded as a whole
        fully_shard(net, mesh=mesh)


def _units(net: nn.Module) -> Iterable[nn.Module]:
    """Yield the children of a network that have weights and run as a whole."""
    for module in net.children():
        runs = type(module).forward is not nn.Module.forward  # a list of modules does not
        if runs and any(p.ndim for p in module.parameters()):
            yield module

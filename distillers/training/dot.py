"""DOT: SGD with one momentum for the labels and another for the teacher."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from distillers.distributed.world import World


class DOT(torch.optim.Optimizer):
    """SGD that keeps the gradients of both kinds of losses apart, with a momentum for each.

    "DOT: A Distillation-Oriented Trainer", Zhao, Cui, Song and Liang, ICCV 2023,
    https://arxiv.org/abs/2307.08436. With m = momentum and d = delta, at each step

        v_task <- (m - d) v_task + g_task + weight_decay w
        v_kd   <- (m + d) v_kd + g_kd
        w      <- w - lr (v_task + v_kd)

    g_task is the gradient of the losses that read no teacher, g_kd that of the others. A parameter
    that has only one of them has momentum m. As in the public code, one with g_kd only is not
    decayed in its first step.

    `add_teacher_gradient` is called before each step; `step` reads g_task from `grad`.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        momentum: m.
        delta: d; published are 0.075 for CIFAR-100 and Tiny ImageNet, 0.09 for ImageNet.
        weight_decay: L2 penalty.
    """

    _step_supports_amp_scaling = True  # a GradScaler leaves it to `step` to divide by its scale

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._of_teacher: dict[Tensor, Tensor] = {}

    def add_teacher_gradient(self, loss: Tensor) -> None:
        """Add the gradient of the losses that read the teacher; the graph is kept."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                before = self._of_teacher.get(parameter)
                self._of_teacher[parameter] = grad if before is None else before + grad

    @torch.no_grad()
    def average(self, world: World) -> None:
        """Average both gradients over all processes."""
        every = [p.grad for group in self.param_groups for p in group["params"]]
        grads = [grad for grad in (*every, *self._of_teacher.values()) if grad is not None]
        flat = world.sum(torch.cat([grad.flatten() for grad in grads])).div_(world.size)
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    @torch.no_grad()
    def spread_non_finite(self) -> None:
        """Make g_task non-finite if g_kd is, for those who look at `grad` alone."""
        tasks = (p.grad for group in self.param_groups for p in group["params"])
        task = next((grad for grad in tasks if grad is not None), None)
        if task is not None:
            for grad in self._of_teacher.values():
                task.add_((grad * 0).sum().to(task.dtype))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop both gradients."""
        super().zero_grad(set_to_none)
        self._of_teacher.clear()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters; with a GradScaler not if a gradient is not finite."""
        del closure
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found is not None and bool(found):
            return
        factor = 1.0 if scale is None else 1.0 / float(scale)
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group, factor)

    def _update(self, parameter: Tensor, group: dict[str, Any], factor: float) -> None:
        """Update one parameter, whose gradients are to be multiplied by `factor`."""
        grads = {"task": parameter.grad, "kd": self._of_teacher.get(parameter)}
        present = {name: grad * factor for name, grad in grads.items() if grad is not None}
        state, delta = self.state[parameter], group["delta"] if len(present) == 2 else 0.0
        if present and group["weight_decay"] and (state or "task" in present):
            name = "task" if "task" in present else "kd"
            present[name] = present[name].add(parameter, alpha=group["weight_decay"])
        for name, grad in present.items():
            momentum = group["momentum"] + (delta if name == "kd" else -delta)
            before = state.get(name)
            state[name] = grad.clone() if before is None else before.mul_(momentum).add_(grad)
            parameter.add_(state[name], alpha=-group["lr"])

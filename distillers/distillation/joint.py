"""Train several tasks as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from distillers.data.batch import Batch
from distillers.distillation.task import Step, Task
from distillers.errors import InputError


class JointTask(Task):
    """The sum of several tasks on the same batches, such as students that teach each other.

    The first task gives the network that is deployed and the logits of the training accuracy. The
    parts of the others are named with their number, "kd_2" and so on.

    Args:
        tasks: the tasks; at least one.

    Raises:
        InputError: if there is none, or their first stages differ in length.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        if not tasks or len({task.warmup_epochs for task in tasks}) > 1:
            raise InputError("a JointTask needs tasks whose first stages are of one length.")
        super().__init__()
        self.tasks = nn.ModuleList(tasks)
        self._all = tuple(tasks)  # the same, with the type that a `ModuleList` forgets
        self.warmup_epochs = tasks[0].warmup_epochs
        self.reads_progress = any(task.reads_progress for task in tasks)
        self.reads_strong = any(task.reads_strong for task in tasks)
        self.full_batches = any(task.full_batches for task in tasks)

    @override
    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        steps = []
        for task in self._all:
            task.stage, task.splits_loss = self.stage, self.splits_loss
            steps.append(task(batch, progress))
        parts, labelled = dict(steps[0].parts), [*steps[0].labelled]
        for number, step in enumerate(steps[1:], start=2):
            parts |= {f"{name}_{number}": part for name, part in step.parts.items()}
            labelled += [f"{name}_{number}" for name in step.labelled]
        loss = torch.stack([step.loss for step in steps]).sum()
        halves = _split(steps) if self.splits_loss else ()
        return Step(loss, parts, steps[0].logits, tuple(labelled), *halves)

    @override
    def deployed(self) -> nn.Module:
        return self._all[0].deployed()

    @override
    def networks(self) -> list[nn.Module]:
        return [net for task in self._all for net in task.networks()]


def _split(steps: Sequence[Step]) -> tuple[Tensor | None, Tensor | None]:
    """Return the sums of the losses that read no teacher, and of the others.

    The loss of a task without a teacher is one whole.
    """
    labels: list[Tensor] = []
    teachers: list[Tensor] = []
    for step in steps:
        if step.label_loss is None and step.teacher_loss is None:
            labels.append(step.loss)
        labels += [] if step.label_loss is None else [step.label_loss]
        teachers += [] if step.teacher_loss is None else [step.teacher_loss]
    first, second = (torch.stack(half).sum() if half else None for half in (labels, teachers))
    return first, second

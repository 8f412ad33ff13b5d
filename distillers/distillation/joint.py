"""Train several tasks as one."""

from collections.abc import Sequence

import torch
from torch import nn

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
        self._all = tuple(tasks)
        self.warmup_epochs = tasks[0].warmup_epochs
        self.reads_progress = any(task.reads_progress for task in tasks)
        self.full_batches = any(task.full_batches for task in tasks)

    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        """Compute the sum of the losses of all tasks.

        Args:
            batch: images (n, c, h, w), labels (n,) and the rest of `Batch`.
            progress: fraction of the current stage that is done, in [0, 1).
        """
        steps = []
        for task in self._all:
            task.stage = self.stage
            steps.append(task(batch, progress))
        parts = dict(steps[0].parts)
        for number, step in enumerate(steps[1:], start=2):
            parts |= {f"{name}_{number}": part for name, part in step.parts.items()}
        loss = torch.stack([step.loss for step in steps]).sum()
        return steps[0]._replace(loss=loss, parts=parts)

    def deployed(self) -> nn.Module:
        """Return the network that the first task deploys."""
        return self._all[0].deployed()

    def networks(self) -> list[nn.Module]:
        """Return the networks of all tasks."""
        return [net for task in self._all for net in task.networks()]

"""What a task gives the loop, and the task without a teacher."""

from typing import NamedTuple

from torch import Tensor, nn

from distillers.data.batch import Batch


class Step(NamedTuple):
    """What a task gives the loop for one batch; a tuple, which DistributedDataParallel sees into.

    Attributes:
        loss: scalar with gradient.
        parts: scalars without gradient by name, before their weights.
        logits: (n, k) of the network that learns, or None where the deployed network's logits do
            not occur in the step.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor | None


class Supervised(nn.Module):
    """The task without a teacher: one network, one loss on its logits."""

    def __init__(self, student: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.loss = loss

    def forward(self, batch: Batch, progress: float = 0.0) -> Step:  # noqa: ARG002
        """One step's loss; `progress` is not used."""
        logits = self.student(batch.images)
        loss = self.loss(logits, batch.labels)
        return Step(loss, {"ce": loss.detach()}, logits)

    def deployed(self) -> nn.Module:
        """The network that is scored, saved and exported."""
        return self.student

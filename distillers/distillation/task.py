"""The contract between a task and the training loop, and the task without a teacher."""

import inspect
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from typing_extensions import override

from distillers.data.batch import Batch
from distillers.distillation.labelled import call_for_labelled
from distillers.features.extractor import check_logits


class Step(NamedTuple):
    """Result of a task for one batch.

    It is a tuple because DistributedDataParallel searches the output of `forward` for tensors, and
    looks only inside of tuples, lists and dicts.

    Attributes:
        loss: scalar with gradient.
        parts: unweighted terms of the loss by name, scalars without gradient.
        logits: (n, k) logits of the student, for the training accuracy; None when the deployed
            network's logits are not computed in the step.
        labelled: names of the parts that are means over the labelled images only.
        label_loss: where the task `splits_loss`, the part of `loss` that reads no teacher; None if
            there is none.
        teacher_loss: the same for the other part.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor | None
    labelled: tuple[str, ...] = ()
    label_loss: Tensor | None = None
    teacher_loss: Tensor | None = None


class Task(nn.Module, ABC):
    """What the training loop trains: a module that returns its own loss.

    The loop uses nothing else of a task than this class and `nn.Module`. All parameters with
    `requires_grad` are optimized; the state dict is saved in checkpoints.

    Attributes:
        warmup_epochs: number of epochs of a warm-up stage, which runs before epoch 1; the optimizer
            is created anew after it.
        stage: set by the loop: "warmup" during the warm-up epochs, else "train".
        reads_progress: whether the loss depends on `progress`. If False, the loop passes 0,
            so that a compiled step is not compiled again for each new value.
        reads_strong: whether the loss reads `Batch.strong`, a second view of each image.
        splits_loss: set by the loop, for `--opt dot`: whether a `Step` has the two parts of the
            loss, too. Tasks without a teacher need not read it.
        full_batches: whether the loss needs batches of exactly `batch_size` images. If True, the
            last, smaller batch of an epoch is dropped.
    """

    warmup_epochs: int = 0
    stage: Literal["warmup", "train"] = "train"
    reads_progress: bool = False
    splits_loss: bool = False
    reads_strong: bool = False
    full_batches: bool = False

    @abstractmethod
    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        """Compute the loss of one batch.

        Args:
            batch: images (n, c, h, w), labels (n,) and the rest of `Batch`.
            progress: fraction of the current stage that is done, in [0, 1).
        """

    @abstractmethod
    def deployed(self) -> nn.Module:
        """Return the network that is evaluated, saved and exported.

        It shares its parameters with the task.
        """

    def networks(self) -> list[nn.Module]:
        """Return the networks that `forward` runs, trained or frozen; by default none.

        With --shard the weights of each of their children are gathered only while it runs.
        """
        return []


class Supervised(Task):
    """Train one network with one loss on its logits, without a teacher.

    Images without a label are left out of the loss.

    Args:
        student: maps images (n, c, h, w) to logits (n, k).
        loss: maps logits (n, k) and labels (n,) to a scalar; or logits and probabilities (n, k) if
            its second parameter is named `targets`. It may read `rows_per_rank`.
    """

    def __init__(self, student: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.loss = loss
        parameters = inspect.signature(loss.forward).parameters
        self._reads_targets = "targets" in parameters
        self._reads_rows = "rows_per_rank" in parameters

    @override
    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        logits = self.student(batch.images)
        check_logits(self.student, logits, len(batch.images), training=self.training)
        soft = self._reads_targets
        second = batch.soft_targets(logits.shape[1]) if soft else batch.labels
        inputs: dict[str, Any] = {"logits": logits, "labels": second}
        if self._reads_rows:
            inputs["rows_per_rank"] = batch.rows_per_rank
        loss = call_for_labelled(
            lambda logits, labels, **rows: self.loss(logits, labels, **rows),
            inputs,
            batch,
            self.loss.parameters(),
        )
        share = batch.labelled_share
        # torch.compile takes `loss * 1.0` for the detached loss, and loses the gradient (2.15)
        scaled = loss if share == 1 else loss * share
        return Step(scaled, {"ce": loss.detach()}, logits, ("ce",))

    def deployed(self) -> nn.Module:
        """Return the student."""
        return self.student

    def networks(self) -> list[nn.Module]:
        """Return the student."""
        return [self.student]

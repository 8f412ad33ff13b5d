"""A trained backbone on another data set: a new classifier, and what of the rest may move."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.distillation.task import Step, Task
from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor, eval_mode
from distillers.features.infer import infer_taps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace

SPREAD = 0.01  # standard deviation of a new classifier's weights, as published


class Transfer(Task):
    """Train a new classifier on a trained network, or fine-tune all of it.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        head: path of its classifier, a linear layer, which is always trained.
        loss: maps logits (n, k) and labels (n,) to a scalar.
        finetune: whether to train the backbone, too.
        update_bn_stats: whether BatchNorm layers of a frozen backbone normalise by the batch while
            training and update their running statistics, as in the public code. Otherwise a frozen
            backbone is in evaluation mode.
        precompute_features: whether batches hold the input of the classifier (n, d), computed once,
            instead of images.

    Raises:
        ValueError: if features are precomputed of a backbone that changes.
    """

    def __init__(
        self,
        net: nn.Module,
        head: str,
        loss: nn.Module,
        *,
        finetune: bool = False,
        update_bn_stats: bool = False,
        precompute_features: bool = False,
    ) -> None:
        super().__init__()
        if precompute_features and (finetune or update_bn_stats):
            raise ValueError("embeddings that were computed before do not follow a backbone.")
        self.student, self.loss, self.head = net, loss, head
        self.finetune, self.update_bn_stats, self.precompute_features = (
            finetune,
            update_bn_stats,
            precompute_features,
        )
        net.requires_grad_(finetune)
        net.get_submodule(head).requires_grad_(True)

    def forward(self, batch: Batch, progress: float = 0.0) -> Step:  # noqa: ARG002
        """One step's loss; `progress` is not used."""
        entered = (
            self.student.get_submodule(self.head) if self.precompute_features else self.student
        )
        logits = entered(batch.images)
        loss = self.loss(logits, batch.labels)
        return Step(loss, {"ce": loss.detach()}, logits)

    def deployed(self) -> nn.Module:
        """The network that is scored and saved."""
        return FromEmbeddings(self.student, self.head) if self.precompute_features else self.student

    def networks(self) -> list[nn.Module]:
        """Return the network."""
        return [self.student]

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """What the classifier takes in, (n, d), of images (n, c, h, w), in evaluation mode."""
        reader = FeatureExtractor(self.student, Taps(maps=(), head=self.head), ["pooled"])
        try:
            with eval_mode(self.student):
                return cast(Tensor, reader(images)["pooled"])
        finally:
            reader.close()

    def train(self, mode: bool = True) -> "Transfer":
        """Training mode for what may move; see `update_bn_stats`."""
        super().train(mode)
        if self.update_bn_stats:
            return self
        if not self.finetune:
            self.student.eval()
        for module in self.student.modules():
            if getattr(module, "running_mean", None) is not None:
                module.eval()
        return self


class FromEmbeddings(nn.Module):
    """A network that may be entered at its classifier, too; it is saved as the network itself."""

    def __init__(self, net: nn.Module, head: str) -> None:
        super().__init__()
        self.net = net
        card: Any = getattr(net, "card", None)
        self.card: dict[str, Any] | None = card
        self._head = head

    def forward(self, taken: Tensor) -> Tensor:
        """Logits (n, k) of embeddings (n, d) or of images (n, c, h, w)."""
        is_image = taken.ndim == 4
        return self.net(taken) if is_image else self.net.get_submodule(self._head)(taken)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The network's own."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Likewise."""
        return self.net.load_state_dict(*args, **kwargs)


def classifier_of(net: nn.Module, images: Tensor) -> str:
    """The path of the linear layer whose output is the logits.

    Raises:
        InputError: when the network ends in anything else.
    """
    trace = ForwardTrace(net, images)
    for call in reversed(trace.calls):
        is_linear = isinstance(call.module, nn.Linear) and trace.ran_once(call.path)
        takes_vectors = call.input is not None and call.input.ndim == 2
        if is_linear and takes_vectors and torch.equal(call.output, trace.logits):
            return call.path
    head = infer_taps(trace).head
    what = f"{head}, a {type(net.get_submodule(head)).__name__}" if head else "none of its layers"
    raise InputError(
        f"{type(net).__name__} does not end in one linear layer on an embedding but in {what}; "
        "only such a classifier can be replaced."
    )


def replace_classifier(net: nn.Module, head: str, num_classes: int) -> None:
    """Put a new linear layer in the place of a network's classifier.

    Its weights are drawn from N(0, 0.01), as published, with the global generator; its bias, where
    the old one had one, is zero.

    Args:
        net: the network; a deployed one that carries a card, SimKD's, has the number of classes in
            it changed too.
        head: path of the old one.
        num_classes: number of logits.
    """
    old = net.get_submodule(head)
    assert isinstance(old, nn.Linear)  # classifier_of gives no other
    new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    nn.init.normal_(new.weight, std=SPREAD)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    net.set_submodule(head, new.to(old.weight.device, old.weight.dtype).train(old.training))
    card = getattr(net, "card", None)
    if isinstance(card, dict):
        card["num_classes"] = num_classes

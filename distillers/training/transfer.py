"""Transfer a trained network to another data set: a new classifier, and optionally fine-tuning."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from distillers.data.batch import Batch
from distillers.distillation.task import Step, Task
from distillers.errors import InputError
from distillers.features.extractor import FeatureExtractor, eval_mode
from distillers.features.infer import infer_taps
from distillers.features.taps import Taps
from distillers.features.trace import ForwardTrace
from distillers.losses import CE

INIT_STD = 0.01  # standard deviation of a new classifier's weights, as published


class Transfer(Task):
    """Train a new classifier on a trained network, or fine-tune all of it.

    Args:
        net: maps images (n, c, h, w) to logits (n, k).
        head: path of its classifier, a linear layer, which is always trained.
        loss: of logits (n, k) and labels (n,).
        finetune: whether to train the backbone, too.
        update_bn_stats: whether BatchNorm layers of a frozen backbone normalize by the batch while
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
        loss: CE,
        *,
        finetune: bool = False,
        update_bn_stats: bool = False,
        precompute_features: bool = False,
    ) -> None:
        super().__init__()
        if precompute_features and (finetune or update_bn_stats):
            raise ValueError("precomputed features do not follow a backbone that changes.")
        self.student, self.loss, self.head = net, loss, head
        self.finetune, self.update_bn_stats = finetune, update_bn_stats
        self.precompute_features = precompute_features
        net.requires_grad_(finetune)
        net.get_submodule(head).requires_grad_(True)

    @override
    def forward(self, batch: Batch, progress: float = 0.0) -> Step:
        net = self.student.get_submodule(self.head) if self.precompute_features else self.student
        logits = net(batch.images)
        loss = self.loss(logits, batch.labels, batch.rows_per_rank)
        return Step(loss, {"ce": loss.detach()}, logits)

    @override
    def deployed(self) -> nn.Module:
        return FromEmbeddings(self.student, self.head) if self.precompute_features else self.student

    @override
    def networks(self) -> list[nn.Module]:
        return [self.student]

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Return the input of the classifier (n, d) for images (n, c, h, w), in evaluation mode."""
        taps = Taps(maps=(), head=self.head)
        with eval_mode(self.student), FeatureExtractor(self.student, taps, ["pooled"]) as read:
            return cast(Tensor, read(images)["pooled"])

    def train(self, mode: bool = True) -> "Transfer":
        """Set training mode where weights or statistics change; see `update_bn_stats`."""
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
    """A network that also takes the input of its classifier; its state dict is the network's."""

    def __init__(self, net: nn.Module, head: str) -> None:
        super().__init__()
        self.net = net
        card: Any = getattr(net, "card", None)
        self.card: dict[str, Any] | None = card
        self._head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (n, k) of embeddings (n, d) or of images (n, c, h, w)."""
        net = self.net if inputs.ndim == 4 else self.net.get_submodule(self._head)
        return net(inputs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the state dict of the network."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state dict of the network."""
        return self.net.load_state_dict(*args, **kwargs)


def classifier_of(net: nn.Module, images: Tensor) -> str:
    """Return the path of the linear layer that maps embeddings to logits.

    Raises:
        InputError: if the network does not end in one linear layer.
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
    """Replace the linear classifier of a network by a new one with `num_classes` logits.

    Its weights are drawn from N(0, 0.01), as published, with the global generator; the bias, if the
    old one had one, is zero. The number of classes in the card of a deployed network is updated.
    """
    old = net.get_submodule(head)
    assert isinstance(old, nn.Linear)  # classifier_of returns only these
    new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    nn.init.normal_(new.weight, std=INIT_STD)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    net.set_submodule(head, new.to(old.weight.device, old.weight.dtype).train(old.training))
    card = getattr(net, "card", None)
    if isinstance(card, dict):
        card["num_classes"] = num_classes

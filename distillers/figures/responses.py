"""Logits and features of several networks for the same images, from one pass."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.features.extractor import FeatureExtractor, Features, eval_mode
from distillers.features.taps import Taps
from distillers.training.evaluate import top_classes


@dataclass(frozen=True, eq=False)
class Network:
    """A network with its name in the figures.

    Attributes:
        name: shown in the figures.
        net: maps images (n, c, h, w) to logits (n, k).
        taps: where features are extracted; empty for exported programs, which only give logits.
    """

    name: str
    net: nn.Module
    taps: Taps


@dataclass(frozen=True, eq=False)
class Responses:
    """Outputs of a network for N images.

    Attributes:
        name: of the network.
        logits: (N, k).
        pooled: (N, d), input of the classifier; None for exported programs.
        labels: (N,) int64.
    """

    name: str
    logits: Tensor
    pooled: Tensor | None
    labels: Tensor

    @property
    def predictions(self) -> Tensor:
        """Predicted classes, (N,) int64."""
        return top_classes(self.logits.float())[:, 0]

    @property
    def correct(self) -> Tensor:
        """Whether each prediction is the label, (N,) bool."""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """Accuracy in percent."""
        return 100 * int(self.correct.sum()) / len(self.labels)


def read_features(
    networks: Sequence[Network], kinds: Sequence[Iterable[str]], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, list[Features]]]:
    """Yield each batch with the features of each network, which run in evaluation mode.

    `kinds` names what to read of each, see `FeatureExtractor`.
    """
    with ExitStack() as stack:
        readers = []
        for network, kind in zip(networks, kinds, strict=True):
            stack.enter_context(eval_mode(network.net))
            reader = FeatureExtractor(network.net, network.taps, kind)
            readers.append(stack.enter_context(reader))
        for batch in batches:
            yield batch, [reader(batch.images) for reader in readers]


@torch.no_grad()
def collect_responses(networks: Iterable[Network], batches: Iterable[Batch]) -> list[Responses]:
    """Run networks on the same images and return their outputs on the CPU."""
    networks = list(networks)
    kinds = [("logits", "pooled") if each.taps.head else ("logits",) for each in networks]
    seen: list[list[dict[str, Tensor]]] = [[] for _ in networks]
    labels = []
    for batch, features in read_features(networks, kinds, batches):
        labels.append(batch.labels.cpu())
        for values, read in zip(seen, features, strict=True):
            values.append({k: v.cpu() for k, v in read.items() if isinstance(v, Tensor)})
    truth = torch.cat(labels)
    return [_joined(n.name, values, truth) for n, values in zip(networks, seen, strict=True)]


def _joined(name: str, values: list[dict[str, Tensor]], labels: Tensor) -> Responses:
    logits = torch.cat([each["logits"] for each in values])
    pooled = [each["pooled"] for each in values if "pooled" in each]
    return Responses(name, logits, torch.cat(pooled) if pooled else None, labels)

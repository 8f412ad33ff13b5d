"""What networks answer to the same images, read in one pass over a test set."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillers.data.batch import Batch
from distillers.features.extractor import FeatureExtractor, eval_mode
from distillers.features.taps import Taps


@dataclass(frozen=True, eq=False)
class Network:
    """A network under the name that it has in a picture.

    Attributes:
        name: of the network.
        net: maps images (n, c, h, w) to logits (n, k).
        taps: where it is read; without maps and head for a program, which shows its logits only.
    """

    name: str
    net: nn.Module
    taps: Taps


@dataclass(frozen=True, eq=False)
class Responses:
    """What a network answers to N images.

    Attributes:
        name: of the network.
        logits: (N, k).
        pooled: (N, d), the input of its classifier; None where it shows none, as a program does.
        labels: (N,) int64.
    """

    name: str
    logits: Tensor
    pooled: Tensor | None
    labels: Tensor

    @property
    def classes(self) -> Tensor:
        """(N,) int64, the class that each image is given."""
        return self.logits.argmax(1)

    @property
    def right(self) -> Tensor:
        """(N,) bool, whether that is its label."""
        return self.classes == self.labels

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * int(self.right.sum()) / len(self.labels)


@torch.no_grad()
def respond(networks: Iterable[Network], batches: Iterable[Batch]) -> list[Responses]:
    """The answers of each network, on the CPU.

    Args:
        networks: on the device of the batches.
        batches: one pass over the images.
    """
    networks = list(networks)
    kinds = [("logits", "pooled") if each.taps.head else ("logits",) for each in networks]
    readers = [
        FeatureExtractor(n.net, n.taps, kind) for n, kind in zip(networks, kinds, strict=True)
    ]
    seen: list[list[dict[str, Tensor]]] = [[] for _ in networks]
    labels = []
    try:
        for batch in batches:
            labels.append(batch.labels.cpu())
            for network, reader, values in zip(networks, readers, seen, strict=True):
                with eval_mode(network.net):
                    read = reader(batch.images)
                values.append({k: v.cpu() for k, v in read.items() if isinstance(v, Tensor)})
    finally:
        for reader in readers:
            reader.close()
    truth = torch.cat(labels)
    return [_joined(n.name, values, truth) for n, values in zip(networks, seen, strict=True)]


def _joined(name: str, values: list[dict[str, Tensor]], labels: Tensor) -> Responses:
    logits = torch.cat([each["logits"] for each in values])
    pooled = [each["pooled"] for each in values if "pooled" in each]
    return Responses(name, logits, torch.cat(pooled) if pooled else None, labels)

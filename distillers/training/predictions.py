"""Predictions of a network, recorded during an evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from distillers.checkpoints.for_dataset import for_dataset
from distillers.checkpoints.load import Classifier
from distillers.checkpoints.onnx import OnnxNetwork
from distillers.data.batch import Batch
from distillers.data.source import DataSource
from distillers.errors import InputError
from distillers.features.extractor import eval_mode
from distillers.models.profile import latencies_ms
from distillers.timing import LoadMeter
from distillers.training.evaluate import top_classes


class Predictions:
    """Predictions of a network, recorded batch by batch, as by `score(..., on_batch=seen.add)`."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._rows: list[Tensor] = []

    def add(self, batch: Batch, logits: Tensor) -> None:
        """Record the labels and rows of a batch, and its logits (n, k)."""
        logits = logits.detach().float()
        self._logits.append(logits.cpu())
        self._classes.append(top_classes(logits)[:, 0].cpu())
        self._labels.append(batch.labels.cpu())
        self._rows.append(batch.index.cpu())

    @property
    def has_images(self) -> bool:
        """Whether there is an image."""
        return any(len(labels) for labels in self._labels)

    def logits(self) -> Tensor:
        """Return the logits, (n, k) float32."""
        return torch.cat(self._logits)

    def probabilities(self) -> Tensor:
        """Return the softmax of the logits, (n, k) float64."""
        return self.logits().double().softmax(1)

    def confidence(self) -> Tensor:
        """Return the probability of each predicted class, (n,) float64."""
        return self.probabilities().gather(1, self.classes()[:, None])[:, 0]

    def classes(self) -> Tensor:
        """Return the predicted classes as `score` counts them, (n,) int64."""
        return torch.cat(self._classes)

    def accuracy(self) -> float:
        """Return the accuracy in percent."""
        is_right = self.classes() == self.labels()
        return 100 * int(is_right.sum()) / len(is_right)

    def labels(self) -> Tensor:
        """Return the labels, (n,) int64."""
        return torch.cat(self._labels)

    def rows(self) -> Tensor:
        """Return the rows of the images in the test set, (n,) int64."""
        return torch.cat(self._rows)


@torch.no_grad()
def collect(nets: Sequence[nn.Module], batches: Iterable[Batch]) -> list[Predictions]:
    """Run networks in evaluation mode on the same images and return the predictions of each.

    Args:
        nets: map images (n, c, h, w) to logits (n, k), on the device of the batches.
        batches: an evaluation loader's epoch.

    Raises:
        InputError: if there is no image.
    """
    found = [Predictions() for _ in nets]
    with ExitStack() as modes:
        for net in nets:
            modes.enter_context(eval_mode(net))
        for batch in batches:
            for net, seen in zip(nets, found, strict=True):
                seen.add(batch, net(batch.images))
    if not found[0].has_images:
        raise InputError("there is nothing to score: no image could be read.")
    return found


def run_files(
    files: Mapping[str, Path], source: DataSource
) -> tuple[dict[str, Predictions], dict[str, float], str]:
    """Run exported ONNX files on the test images, and time their forwards of one image in turn.

    Returns:
        the predictions and the median milliseconds by name, and a note on other programs that
        slowed the forwards, "" if there were none.
    """
    device = torch.device("cpu")
    networks = {name: OnnxNetwork(path) for name, path in files.items()}
    nets = [
        for_dataset(Classifier(net, net.card), source, files[name], device)
        for name, net in networks.items()
    ]
    seen = collect(nets, source.test_loader(device).epoch(1))
    work = {name: (net, int(net.card["image_size"]), 1) for name, net in networks.items()}
    meter = LoadMeter()
    latency = latencies_ms(work)
    return dict(zip(files, seen, strict=True)), latency, meter.warning()


def agreement(first: Predictions, second: Predictions) -> float:
    """Compute how often two networks predict the same class for an image, in percent."""
    same = first.classes() == second.classes()
    return 100 * int(same.sum()) / len(same)

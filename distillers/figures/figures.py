"""All kinds of figures for a set of networks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from distillers.data.batch import Batch
from distillers.data.source import DataSource
from distillers.figures import (
    changed_hands,
    cka,
    class_gain,
    correlation,
    mean_logits,
    reliability,
    tsne,
)
from distillers.figures.paper import FigureData
from distillers.figures.responses import Network, Responses, collect_responses
from distillers.files import file_name
from distillers.progress import counted

REQUIRED_OUTPUT = {"tsne": ("pooled", "pooled features"), "cka": ("maps", "stage maps")}


@dataclass(frozen=True, eq=False)
class NetworkComparison:
    """Networks and the test images on which they are compared.

    Attributes:
        source: data set of the test images.
        device: device of the networks.
        networks: the compared networks.
        teacher: their teacher, or None.
        baseline: the network to which gains are relative, or None.
        num_images: number of images in the t-SNE.
        perplexity: of the t-SNE.
        seed: of the t-SNE and of the order of images for CKA.
    """

    source: DataSource
    device: torch.device
    networks: Sequence[Network]
    teacher: Network | None
    baseline: Network | None
    num_images: int = tsne.NUM_IMAGES
    perplexity: float = tsne.PERPLEXITY
    seed: int = 0

    def plot(self, kind: str) -> list[FigureData]:
        """Make the figures of one kind, inside `paper.paper_style()`.

        Args:
            kind: name of the module that plots it, for which `missing_output` is empty.
        """
        return getattr(self, f"_{kind}")()

    def missing_output(self, kind: str) -> str:
        """Describe the outputs that networks lack for a kind of figure, "" if none."""
        if kind not in REQUIRED_OUTPUT:
            return ""
        place, name = REQUIRED_OUTPUT[kind]
        lacking = [each.name for each in self.all_networks if not each.taps.places(place)]
        return f"{' and '.join(lacking)} has no {name}" if lacking else ""

    @property
    def students(self) -> list[Network]:
        """The baseline, if any, and the networks."""
        return [*([self.baseline] if self.baseline else []), *self.networks]

    @property
    def all_networks(self) -> list[Network]:
        """The teacher, if any, and the students."""
        return [*([self.teacher] if self.teacher else []), *self.students]

    @cached_property
    def responses(self) -> dict[str, Responses]:
        """Responses of all networks by name, from one pass."""
        responses = collect_responses(self.all_networks, self._batches("running networks"))
        return {each.name: each for each in responses}

    def _of(self, networks: Sequence[Network]) -> list[Responses]:
        return [self.responses[each.name] for each in networks]

    def _correlation(self) -> list[FigureData]:
        teacher, *students = self._of(self.all_networks)
        return [correlation.plot(teacher, students, self.source.class_names)]

    def _mean_logits(self) -> list[FigureData]:
        teacher, *students = self._of(self.all_networks)
        return [mean_logits.plot(teacher, students, self.source.class_names)]

    def _tsne(self) -> list[FigureData]:
        names = self.source.class_names
        responses = self._of(self.all_networks)
        return [
            tsne.plot(
                responses,
                names,
                seed=self.seed,
                num_images=self.num_images,
                perplexity=self.perplexity,
            )
        ]

    def _cka(self) -> list[FigureData]:
        mixed = self.source.shuffled_test(self.seed)  # in class order a batch has no other classes
        return [cka.plot(*cka.compare(self.all_networks, self._batches("comparing stages", mixed)))]

    def _reliability(self) -> list[FigureData]:
        return [reliability.plot(self._of(self.all_networks))]

    def _class_gain(self) -> list[FigureData]:
        baseline, *networks = self._of(self.students)
        return [class_gain.plot(networks, baseline, self.source.class_names)]

    def _changed_hands(self) -> list[FigureData]:
        baseline, *networks = self._of(self.students)
        pictures = []
        for network in networks:
            pixels = [
                self._pixels(places) for places in changed_hands.select_examples(network, baseline)
            ]
            picture = changed_hands.plot(
                network, baseline, self.source.class_names, (pixels[0], pixels[1])
            )
            if len(networks) > 1:
                picture = replace(picture, name=f"{picture.name}_{file_name(network.name)}")
            pictures.append(picture)
        return pictures

    def _pixels(self, places: Tensor) -> Tensor:
        mean, std = torch.tensor(self.source.mean), torch.tensor(self.source.std)
        batches = self._batches("looking for images")
        return changed_hands.images_at(places, batches, mean, std)

    def _batches(self, what: str, source: DataSource | None = None) -> Iterator[Batch]:
        """Iterate once over the test images with a progress bar."""
        loader = (source or self.source).test_loader(self.device)
        return counted(loader.epoch(1), what, len(loader))

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

VERSUS_BASELINE = ("class_gain", "changed_hands")
# Figures that compare each network with the first.
VERSUS_FIRST = {
    "correlation": correlation.plot,
    "mean_logits": mean_logits.plot,
    "class_gain": class_gain.plot,
}
REQUIRED_OUTPUT = {"tsne": ("pooled", "pooled features"), "cka": ("maps", "stage maps")}


@dataclass(frozen=True, eq=False)
class NetworkComparison:
    """Networks and the test images on which they are compared."""

    source: DataSource
    device: torch.device
    networks: Sequence[Network]
    teacher: Network | None
    baseline: Network | None
    num_images: int = tsne.NUM_IMAGES
    perplexity: float = tsne.PERPLEXITY
    seed: int = 0

    def plot(self, kind: str) -> list[FigureData]:
        """Make the figures of a kind that lacks no output, inside `paper.paper_style()`."""
        names = self.source.class_names
        if kind == "cka":
            shuffled = self.source.shuffled_test(self.seed)  # class order gives one-class batches
            batches = self._batches("comparing stages", shuffled)
            return [cka.plot(*cka.compare(self.all_networks, batches))]
        networks = self.students if kind in VERSUS_BASELINE else self.all_networks
        responses = [self.responses[network.name] for network in networks]
        if kind == "changed_hands":
            return self._changed_hands(responses[1:], responses[0])
        if kind == "tsne":
            options = {"num_images": self.num_images, "perplexity": self.perplexity}
            return [tsne.plot(responses, names, seed=self.seed, **options)]
        if kind == "reliability":
            return [reliability.plot(responses)]
        return [VERSUS_FIRST[kind](responses[0], responses[1:], names)]

    def missing_output(self, kind: str) -> str:
        """Describe the outputs that networks lack for a kind of figure, "" if none."""
        if kind not in REQUIRED_OUTPUT:
            return ""
        place, name = REQUIRED_OUTPUT[kind]
        lacking = [each.name for each in self.all_networks if not each.taps.places(place)]
        verb = "has" if len(lacking) == 1 else "have"
        return f"{' and '.join(lacking)} {verb} no {name}" if lacking else ""

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

    def _changed_hands(
        self, networks: Sequence[Responses], baseline: Responses
    ) -> list[FigureData]:
        figures = []
        for network in networks:
            won, lost = map(self._images, changed_hands.select_examples(network, baseline))
            names = self.source.class_names
            figure = changed_hands.plot(network, baseline, names, (won, lost))
            if len(networks) > 1:
                figure = replace(figure, name=f"{figure.name}_{file_name(network.name)}")
            figures.append(figure)
        return figures

    def _images(self, places: Tensor) -> Tensor:
        batches = self._batches("looking for images")
        return changed_hands.images_at(places, batches, self.source)

    def _batches(self, what: str, source: DataSource | None = None) -> Iterator[Batch]:
        """Iterate once over the test images with a progress bar."""
        loader = (source or self.source).test_loader(self.device)
        return counted(loader.epoch(1), what, len(loader))

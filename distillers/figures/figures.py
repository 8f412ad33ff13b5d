"""Every picture of one comparison: some networks, perhaps their teacher, perhaps a baseline."""

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
from distillers.figures.paper import Picture
from distillers.figures.responses import Network, Responses, respond
from distillers.files import file_name
from distillers.progress import counted

READS = {"tsne": ("pooled", "pooled features"), "cka": ("maps", "stage maps")}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Networks and the test images that they are compared on.

    Attributes:
        source: the images.
        device: where the networks are.
        networks: those that the pictures are about.
        teacher: or None.
        baseline: or None.
        num_images: of the t-SNE.
        perplexity: likewise.
        seed: likewise.
    """

    source: DataSource
    device: torch.device
    networks: Sequence[Network]
    teacher: Network | None
    baseline: Network | None
    num_images: int = tsne.NUM_IMAGES
    perplexity: float = tsne.PERPLEXITY
    seed: int = 0

    def draw(self, kind: str) -> list[Picture]:
        """The pictures of one kind, mostly one; drawn and saved inside `paper.look()`.

        Args:
            kind: as the module is called that draws it; there is no `hindrance`.
        """
        return getattr(self, f"_{kind}")()

    def hindrance(self, kind: str) -> str:
        """Why a picture cannot be drawn, "" where it can."""
        if kind not in READS:
            return ""
        place, said = READS[kind]
        lacking = [each.name for each in self.everybody if not each.taps.places(place)]
        return f"{' and '.join(lacking)} shows no {said}" if lacking else ""

    @property
    def students(self) -> list[Network]:
        """The baseline first, where there is one, and the networks."""
        return [*([self.baseline] if self.baseline else []), *self.networks]

    @property
    def everybody(self) -> list[Network]:
        """The teacher first, where there is one, and the students."""
        return [*([self.teacher] if self.teacher else []), *self.students]

    @cached_property
    def responses(self) -> dict[str, Responses]:
        """The answers of everybody by name, read in one pass."""
        answers = respond(self.everybody, self._batches("reading"))
        return {each.name: each for each in answers}

    def _of(self, networks: Sequence[Network]) -> list[Responses]:
        return [self.responses[each.name] for each in networks]

    def _correlation(self) -> list[Picture]:
        teacher, *students = self._of(self.everybody)
        return [correlation.draw(teacher, students, self.source.class_names)]

    def _mean_logits(self) -> list[Picture]:
        teacher, *students = self._of(self.everybody)
        return [mean_logits.draw(teacher, students, self.source.class_names)]

    def _tsne(self) -> list[Picture]:
        names = self.source.class_names
        answers = self._of(self.everybody)
        return [
            tsne.draw(
                answers,
                names,
                seed=self.seed,
                num_images=self.num_images,
                perplexity=self.perplexity,
            )
        ]

    def _cka(self) -> list[Picture]:
        mixed = self.source.shuffled_test(self.seed)  # in class order a batch has no other classes
        return [cka.draw(*cka.compare(self.everybody, self._batches("comparing stages", mixed)))]

    def _reliability(self) -> list[Picture]:
        return [reliability.draw(self._of(self.everybody))]

    def _class_gain(self) -> list[Picture]:
        baseline, *networks = self._of(self.students)
        return [class_gain.draw(networks, baseline, self.source.class_names)]

    def _changed_hands(self) -> list[Picture]:
        baseline, *networks = self._of(self.students)
        pictures = []
        for network in networks:
            pixels = [self._pixels(places) for places in changed_hands.shown(network, baseline)]
            picture = changed_hands.draw(
                network, baseline, self.source.class_names, (pixels[0], pixels[1])
            )
            if len(networks) > 1:
                picture = replace(picture, name=f"{picture.name}_{file_name(network.name)}")
            pictures.append(picture)
        return pictures

    def _pixels(self, places: Tensor) -> Tensor:
        mean, std = torch.tensor(self.source.mean), torch.tensor(self.source.std)
        batches = self._batches("looking for images")
        return changed_hands.pixels_at(places, batches, mean, std)

    def _batches(self, what: str, source: DataSource | None = None) -> Iterator[Batch]:
        """One pass over the images, shown to a person while it lasts."""
        loader = (source or self.source).test_loader(self.device)
        return counted(loader.epoch(1), what, len(loader))

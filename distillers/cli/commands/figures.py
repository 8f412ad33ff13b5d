"""`distillers figures`: plot comparisons of networks, ready for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from distillers.config.flags import Names, Range, at_least
from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig, method_of_run
from distillers.errors import InputError, unknown

if TYPE_CHECKING:
    import torch

    from distillers.checkpoints.load import Classifier
    from distillers.data.source import DataSource
    from distillers.figures.figures import NetworkComparison
    from distillers.figures.responses import Network

WITH_TEACHER = "a teacher", "path_t", "--path_t TEACHER"
WITH_BASELINE = "a baseline", "baseline", "--baseline NETWORK"
# What each figure compares with: its name, the field that must be given, and its flag.
KINDS: dict[str, tuple[str, str, str] | None] = {
    "correlation": WITH_TEACHER,
    "mean_logits": WITH_TEACHER,
    "tsne": None,
    "cka": WITH_TEACHER,
    "reliability": None,
    "class_gain": WITH_BASELINE,
    "changed_hands": WITH_BASELINE,
}
SEED = Range("in 0 to 4294967295", lambda value: 0 <= value < 2**32)


@dataclass(frozen=True, kw_only=True)
class FiguresConfig(ScoringConfig):
    """Plot comparisons of saved networks, each as PNG, PDF and CSV."""

    networks: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints, run folders or exported files; NAME=PATH names one."""
    path_t: str | None = None
    """Teacher that the networks are compared with: PATH or NAME=PATH."""
    baseline: str | None = None
    """Network to improve upon, such as the student trained alone: PATH or NAME=PATH."""
    kinds: Names = ()
    """Figures to plot: correlation, mean_logits, tsne, cka, reliability, class_gain, changed_hands.
    Default: all whose teacher or baseline is given."""
    out: str = "figures"
    """Output folder; created if missing."""
    model: str | None = None
    """Architecture of the networks, if a file does not name it."""
    model_t: str | None = None
    """Architecture of the teacher, if its file does not name it."""
    num_images: Annotated[int, at_least(50)] = 1000
    """Number of images in the t-SNE."""
    perplexity: Annotated[float, at_least(2)] = 30.0
    """Perplexity of the t-SNE."""
    seed: Annotated[int, SEED] = 0
    """Random seed of the t-SNE and of its images."""

    def check(self) -> None:
        """Check the flags, alone and together; see `ScoringConfig.check`."""
        super().check()
        if not self.networks:
            raise InputError("no network is named: give a checkpoint or a run's folder.")
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown("figure", kind, KINDS)
            if missing := self.missing(kind):
                raise InputError(f"{kind} compares with {missing}.")

    def missing(self, kind: str) -> str:
        """Return the network that a figure compares with and its flag, if not given, else ""."""
        needed = KINDS[kind]
        if needed is None or getattr(self, needed[1]):
            return ""
        return f"{needed[0]}, {needed[2]}"


def main(args: Sequence[str]) -> None:
    """Load the networks, plot the figures, and print what was written."""
    config = parse(FiguresConfig, args, "distillers figures")
    config.check()

    from distillers.figures.paper import paper_style, save_figure
    from distillers.files import write_text

    comparison = _load_comparison(config)
    kinds = [kind for kind in config.kinds or KINDS if _can_plot(kind, config, comparison)]
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    for kind in kinds:
        with paper_style():
            for figure in comparison.plot(kind):
                save_figure(figure, folder)
                captions.append(f"**{figure.name}**: {figure.caption}\n")
                print(f"saved {folder / figure.name}.png, .pdf and .csv", flush=True)
    write_text(folder / "captions.md", "\n".join(captions))
    print(f"saved {folder / 'captions.md'}")


def _can_plot(kind: str, config: FiguresConfig, comparison: "NetworkComparison") -> bool:
    """Return whether a figure can be plotted; if not, print why, or raise if it was requested."""
    reason = config.missing(kind) and f"it compares with {config.missing(kind)}"
    reason = reason or comparison.missing_output(kind)
    if reason and config.kinds:
        raise InputError(f"{kind} cannot be plotted: {reason}.")
    if reason:
        print(f"{kind} is left out: {reason}")
    return not reason


class _Loaded(NamedTuple):
    name: str
    path: str
    classifier: "Classifier"


def _load_comparison(config: FiguresConfig) -> "NetworkComparison":
    """Load the networks and the data set on which they are compared."""
    from distillers.checkpoints.for_dataset import find_test_source
    from distillers.distributed.rendezvous import device_of
    from distillers.figures.figures import NetworkComparison

    device = device_of(config.devices())
    teacher = [_load(config.path_t, config.model_t)] if config.path_t else []
    texts = [*([config.baseline] if config.baseline else []), *config.networks]
    students = [_load(text, config.model, *teacher) for text in texts]
    names = [each.name for each in (*teacher, *students)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two networks are called {twice}; name them, as in {twice}-2=PATH.")
    first = students[-len(config.networks)]
    source = find_test_source(config, first.classifier.card, first.path)
    networks = [_on_device(each, source, device) for each in (*teacher, *students)]
    return NetworkComparison(
        source=source,
        device=device,
        networks=networks[-len(config.networks) :],
        teacher=networks[0] if teacher else None,
        baseline=networks[len(teacher)] if config.baseline else None,
        num_images=config.num_images,
        perplexity=config.perplexity,
        seed=config.seed,
    )


def _load(text: str, model: str | None, teacher: _Loaded | None = None) -> _Loaded:
    """Load the network of PATH or NAME=PATH, named after its run's method or its architecture.

    The teacher is needed only for files of SimKD's published code.
    """
    from distillers.checkpoints.load import load

    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = "", text
    classifier = load(path, model=model, teacher=teacher.classifier.net if teacher else None)
    name = name or method_of_run(path) or str(classifier.card.get("model"))
    return _Loaded(name, path, classifier)


def _on_device(loaded: _Loaded, source: "DataSource", device: "torch.device") -> "Network":
    """Prepare a network for the images of a data set and find its taps."""
    from distillers.checkpoints.for_dataset import for_dataset
    from distillers.checkpoints.onnx import RuntimeNetwork
    from distillers.checkpoints.program import Program
    from distillers.features.infer import find_taps
    from distillers.features.taps import Taps
    from distillers.figures.responses import Network

    net = for_dataset(loaded.classifier, source, loaded.path, device)
    if isinstance(loaded.classifier.net, Program | RuntimeNetwork):
        return Network(loaded.name, net, Taps(maps=(), head=""))
    return Network(loaded.name, net, find_taps(net, source.sample(device)))

"""`distillers figures`: plot comparisons of networks, ready for a paper."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from distillers.config.flags import ModulePaths, Range, at_least
from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig
from distillers.errors import InputError, unknown

if TYPE_CHECKING:
    import torch

    from distillers.checkpoints.load import Classifier
    from distillers.data.source import DataSource
    from distillers.figures.figures import NetworkComparison
    from distillers.figures.responses import Network

# The network that each figure compares with.
KINDS = {
    "correlation": "teacher",
    "mean_logits": "teacher",
    "tsne": "",
    "cka": "teacher",
    "reliability": "",
    "class_gain": "baseline",
    "changed_hands": "baseline",
}
SEED = Range("in 0 to 4294967295", lambda value: 0 <= value < 2**32)
FLAGS = {"teacher": "--path_t TEACHER", "baseline": "--baseline NETWORK"}


@dataclass(frozen=True, kw_only=True)
class FiguresConfig(ScoringConfig):
    """Plot comparisons of saved networks, each as PNG, PDF and CSV."""

    networks: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints, run folders or exported files; NAME=PATH names one."""
    path_t: str | None = None
    """Teacher that the networks are compared with: PATH or NAME=PATH."""
    baseline: str | None = None
    """Network to improve upon, such as the student trained alone: PATH or NAME=PATH."""
    kinds: ModulePaths = ()
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
                raise unknown("picture", kind, KINDS)
            missing = self.missing(kind)
            if missing:
                raise InputError(f"{kind} compares with a {missing}; name it, {FLAGS[missing]}.")

    def missing(self, kind: str) -> str:
        """Return what a figure needs that is not given: "teacher", "baseline", or ""."""
        other = KINDS[kind]
        given = {"teacher": self.path_t, "baseline": self.baseline, "": "nothing"}
        return "" if given[other] else other


def main(args: Sequence[str]) -> None:
    """Read the networks, plot the figures, and print what was written."""
    config = parse(FiguresConfig, args, "distillers figures")
    config.check()

    from distillers.figures.paper import paper_style, save_figure
    from distillers.files import write_atomically

    comparison = _comparison(config)
    kinds = [kind for kind in config.kinds or KINDS if _can_draw(kind, config, comparison)]
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    for kind in kinds:
        with paper_style():
            for picture in comparison.plot(kind):
                save_figure(picture, folder)
                captions.append(f"**{picture.name}**: {picture.caption}\n")
                print(f"saved {folder / picture.name}.png, .pdf and .csv", flush=True)
    write_atomically(folder / "captions.md", "\n".join(captions).encode())
    print(f"saved {folder / 'captions.md'}")


def _can_draw(kind: str, config: FiguresConfig, comparison: "NetworkComparison") -> bool:
    """Return whether a figure can be plotted; print the reason if it cannot.

    Raises:
        InputError: if it was requested by name and cannot be plotted.
    """
    missing = config.missing(kind)
    if missing:
        print(f"{kind} is left out: it compares with a {missing}, {FLAGS[missing]}")
        return False
    why = comparison.missing_output(kind)
    if why and config.kinds:
        raise InputError(f"{kind} cannot be drawn: {why}.")
    if why:
        print(f"{kind} is left out: {why}")
    return not why


def _comparison(config: FiguresConfig) -> "NetworkComparison":
    from distillers.distributed.rendezvous import device_of
    from distillers.figures.figures import NetworkComparison

    device = device_of(config.devices())
    teacher = _named(config.path_t, config.model_t) if config.path_t else None
    files = [_named(text, config.model, teacher) for text in config.networks]
    baseline = _named(config.baseline, config.model, teacher) if config.baseline else None
    every = [*filter(None, (teacher, baseline)), *files]
    names = [each.name for each in every]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two networks are called {twice}; name them, as in {twice}-2=PATH.")
    from distillers.checkpoints.for_dataset import find_test_source

    source = find_test_source(config, files[0].classifier.card, files[0].path)
    networks = {each.name: each.placed(source, device) for each in every}
    return NetworkComparison(
        source=source,
        device=device,
        networks=[networks[each.name] for each in files],
        teacher=networks[teacher.name] if teacher else None,
        baseline=networks[baseline.name] if baseline else None,
        num_images=config.num_images,
        perplexity=config.perplexity,
        seed=config.seed,
    )


class _Saved(NamedTuple):
    """A network from a file, and its name."""

    name: str
    path: Path
    classifier: "Classifier"

    def placed(self, source: "DataSource", device: "torch.device") -> "Network":
        """Return the network and its taps, ready for the images of a data set."""
        from distillers.checkpoints.for_dataset import for_dataset
        from distillers.checkpoints.load import Program
        from distillers.checkpoints.onnx import OnnxNetwork
        from distillers.features.infer import find_taps
        from distillers.features.taps import Taps
        from distillers.figures.responses import Network

        net = for_dataset(self.classifier, source, self.path, device)
        if isinstance(self.classifier.net, Program | OnnxNetwork):
            return Network(self.name, net, Taps(maps=(), head=""))
        return Network(self.name, net, find_taps(net, source.sample(device)))


def _named(text: str, model: str | None, teacher: _Saved | None = None) -> _Saved:
    """Read the network of PATH or NAME=PATH.

    Args:
        text: a path with or without a name. The default name is the run's method, else the
            architecture.
        model: the architecture, if the file does not name it.
        teacher: needed only for files of SimKD's published code.
    """
    from distillers.checkpoints.load import load

    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = "", text
    classifier = load(path, model=model, teacher=teacher.classifier.net if teacher else None)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return _Saved(
        name or _name_in(folder) or str(classifier.card.get("model")), Path(path), classifier
    )


def _name_in(folder: Path) -> str:
    """Return the method in a run's flags, else its network; "" if there are no flags."""
    path = folder / "config.json"
    if not path.is_file():
        return ""
    try:
        flags = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    method = "+".join(filter(None, (flags.get("distill"), flags.get("loss"))))
    if "distill" in flags:
        return method or "kd"
    return flags.get("model") or flags.get("model_s") or ""

"""`distillers compare`: compare a network with the one that it would replace."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distillers.config.flags import NOT_NEGATIVE, Fact, require_folder_of
from distillers.config.parsing import parse
from distillers.config.scoring import ScoringConfig
from distillers.config.sizes import pluralize
from distillers.errors import LimitExceededError
from distillers.files import write_json, write_text

if TYPE_CHECKING:
    import torch

    from distillers.checkpoints.load import Classifier
    from distillers.data.source import DataSource
    from distillers.report.comparison import Comparison
    from distillers.training.predictions import Predictions

MAX_CLASSES = 50  # in the printed table


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ScoringConfig):
    """Compare a network with the one that it would replace; exit status 1 beyond a limit."""

    old: tyro.conf.Positional[str]
    """Checkpoint, run folder or exported file of the network in use."""
    new: tyro.conf.Positional[str]
    """Checkpoint, run folder or exported file of the network that would replace it."""
    model_old: str | None = None
    """Architecture of the old network, if its file does not name it."""
    model_new: str | None = None
    """Architecture of the new network, if its file does not name it."""
    max_drop: Annotated[float | None, NOT_NEGATIVE] = None
    """Largest allowed loss of accuracy in percentage points."""
    max_negative_flips: Annotated[float | None, NOT_NEGATIVE] = None
    """Largest allowed share, in percent of the images, that only the old network gets right."""
    max_class_drop: Annotated[float | None, NOT_NEGATIVE] = None
    """Largest allowed loss of a class's recall in percentage points."""
    out: Annotated[str | None, Fact.PATH] = None
    """Folder for comparison.json, flips.csv and the pictures of the images won and lost."""


def main(args: Sequence[str]) -> None:
    """Print the comparison, write its files, and check the limits."""
    config = parse(CompareConfig, args, "distillers compare")
    config.check()
    out = Path(config.out).expanduser() if config.out else None
    if out is not None:
        require_folder_of("out", out)

    from distillers.checkpoints.for_dataset import find_test_source, for_dataset
    from distillers.checkpoints.input_adapter import check_classes
    from distillers.checkpoints.load import best_checkpoint, file_bytes, load
    from distillers.distributed.rendezvous import device_of
    from distillers.report.comparison import compare
    from distillers.report.evaluation import check_finite
    from distillers.training.predictions import collect

    device = device_of(config.devices())
    paths = [best_checkpoint(Path(each)) for each in (config.old, config.new)]
    models = (config.model_old, config.model_new)
    networks = [load(path, model=model) for path, model in zip(paths, models, strict=True)]
    source = find_test_source(config, networks[0].card, paths[0])
    for network, path in zip(networks, paths, strict=True):
        check_classes(network.card, source, path)
    pair = zip(networks, paths, strict=True)
    nets = [for_dataset(network, source, path, device) for network, path in pair]
    old, new = collect(nets, source.test_loader(device).epoch(1))
    check_finite(old, source)
    check_finite(new, source)
    found = compare(old, new, source.class_names)
    latency, load_note = _latencies(networks, device, source.image_size)
    costs: dict[str, dict[str, float]] = {
        "latency_ms": latency,
        "file_bytes": {n: file_bytes(p) for n, p in zip(("old", "new"), paths, strict=True)},
    }
    print(f"old {paths[0]}\nnew {paths[1]}")
    print(f"on the {found.num_images} {source.test_part} images of {source.name}\n")
    _print(found, costs, load_note)
    if out is not None:
        out.mkdir(exist_ok=True)
        _write(out, found, costs, (old, new), source, device)
    check_limits(config, found)


def check_limits(config: CompareConfig, found: "Comparison") -> None:
    """Check the limits of the command line.

    Raises:
        LimitExceededError: naming each limit that is exceeded, with its figure.
    """
    name, drop = found.largest_class_drop
    measured = {
        "max_drop": (max(0.0, -found.change), "points of accuracy lost"),
        "max_negative_flips": (found.negative_flips, "% of the images lost"),
        "max_class_drop": (drop, f"points of recall lost by class {name}"),
    }
    exceeded = [
        f"{value:.2f} {what}, --{flag} is {limit:g}"
        for flag, (value, what) in measured.items()
        if (limit := getattr(config, flag)) is not None and value > limit
    ]
    if exceeded:
        raise LimitExceededError(f"the new network is refused: {'; '.join(exceeded)}.")
    if any(getattr(config, flag) is not None for flag in measured):
        print("\nwithin the limits")


def _latencies(
    networks: "Sequence[Classifier]", device: "torch.device", image_size: int
) -> tuple[dict[str, float], str]:
    """Return the interleaved latencies for one image of each network's size, and a note on load."""
    from distillers.models.profile import latencies_ms
    from distillers.timing import LoadMeter

    meter = LoadMeter()
    work = {
        name: (each.net.to(device), each.card.get("image_size") or image_size, 1)
        for name, each in zip(("old", "new"), networks, strict=True)
    }
    return latencies_ms(work), meter.warning()


def _print(found: "Comparison", costs: dict[str, dict[str, float]], load: str) -> None:
    """Print the table of both networks and that of the classes."""
    from distillers.report.formatting import format_figure

    print(f"{'':<16}{'old':>14}{'new':>14}{'new - old':>14}")
    rows = {name: (found.old[name], found.new[name]) for name in found.old}
    rows |= {name: (values["old"], values["new"]) for name, values in costs.items()}
    for name, (old, new) in rows.items():
        change = format_figure(new - old, signed=True)
        print(f"{name:<16}{format_figure(old):>14}{format_figure(new):>14}{change:>14}")
    low, high = found.interval
    print(f"\naccuracy        {found.change:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}]")
    print(f"won             {pluralize(found.won, 'image')}")
    print(f"negative_flips  {pluralize(found.lost, 'image')}, {found.negative_flips:.2f} %")
    print(f"mcnemar_p       {found.p_value:.4g} (exact)")
    if load:
        print(f"latency         {load}; the forwards of both are interleaved")
    shown = found.classes.iloc[:MAX_CLASSES]
    print("\n" + shown.to_string(index=False, float_format=lambda x: f"{x:.2f}", na_rep="–"))
    if len(shown) < len(found.classes):
        print(f"... the {MAX_CLASSES} classes of {len(found.classes)} that lose most")


def _write(
    out: Path,
    found: "Comparison",
    costs: dict[str, Any],
    seen: "tuple[Predictions, Predictions]",
    source: "DataSource",
    device: "torch.device",
) -> None:
    """Write the figures, the list of flips, and their pictures."""
    from distillers.figures import changed_hands
    from distillers.figures.paper import paper_style, save_figure
    from distillers.figures.responses import Responses
    from distillers.report.comparison import flips_table

    write_json(out / "comparison.json", {**found.as_json(), **costs})
    flips = flips_table(*seen, source)
    write_text(out / "flips.csv", flips.to_csv(index=False, lineterminator="\n"))
    old, new = (
        Responses(name, each.logits(), None, each.labels())
        for name, each in zip(("old", "new"), seen, strict=True)
    )
    won, lost = (
        changed_hands.images_at(places, source.test_loader(device).epoch(1), source)
        for places in changed_hands.select_examples(new, old)
    )
    with paper_style():
        figure = changed_hands.plot(new, old, source.class_names, (won, lost))
        save_figure(figure, out)
    print(f"\nsaved {out}: comparison.json, flips.csv, {figure.name}.png")

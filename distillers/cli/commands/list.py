"""`distillers list`: list methods, networks and data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from distillers.config.parsing import parse


@dataclass(frozen=True)
class ListConfig:
    """List methods, networks and data sets."""

    what: tyro.conf.Positional[Literal["all", "methods", "networks", "datasets"]] = "all"
    """Which list to print."""


def main(args: Sequence[str]) -> None:
    """Print the lists."""
    config = parse(ListConfig, args, "distillers list")
    sections = {"methods": methods, "networks": networks, "datasets": datasets}
    for name, show in sections.items():
        if config.what in ("all", name):
            print(f"{name}\n")
            print("\n".join(f"  {line}" for line in show()), end="\n\n")


def methods() -> list[str]:
    """Return a line for each loss: name, published weights, what it needs, title."""
    from distillers.distillation import recipes
    from distillers.losses import wiring

    lines = [f"{'name':<16}{'crd: CE KL method':<22}{'simkd: CE KL method':<22}{'needs':<34}title"]
    for name, loss in sorted(wiring.losses().items()):
        weights = ""
        for protocol in ("crd", "simkd"):
            each = recipes.recipe(protocol, name)
            weights += f"{f'{each.ce:g} {each.kd:g} {each.method:g}':<22}"
        title = (loss.__doc__ or "").strip().splitlines()[0]
        lines.append(f"{name:<16}{weights}{', '.join(wiring.needs(loss)):<34}{title}")
    return lines


def networks() -> list[str]:
    """Return a line for each network: name, parameters, multiply-accumulates for one image."""
    import torch

    from distillers import models
    from distillers.models.profile import count_macs, count_parameters
    from distillers.models.registry import LARGE_IMAGES, SMALL_IMAGES

    lines = [f"{'name':<20}{'image':>8}{'parameters':>14}{'MACs':>18}"]
    for size, classes, names in ((32, 100, SMALL_IMAGES), (224, 1000, LARGE_IMAGES)):
        for name in names:
            with torch.device("meta"):  # counts without computing
                net = models.create(name, num_classes=classes, image_size=size)
                macs = count_macs(net, size)
            lines.append(f"{name:<20}{size:>8}{count_parameters(net):>14,}{macs:>18,}")
    return [*lines, "and timm:NAME, torchvision:NAME, package.module:callable"]


def datasets() -> list[str]:
    """Return the names of the data sets."""
    from distillers import data

    return list(data.names())

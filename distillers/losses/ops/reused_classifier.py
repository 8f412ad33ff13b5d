"""A student's backbone that ends in a teacher's classifier, as one module to save and export."""

import copy
from dataclasses import asdict
from typing import Any, cast

from torch import Tensor, nn

from distillers.features.layout import Layout
from distillers.losses.ops.stages import downsample


class ReusedClassifier(nn.Module):
    """Backbone, projector, average pooling, classifier.

    The modules are copies around the same parameters and buffers: what trains the originals trains
    this, and nothing done to the structure or the mode of this is done to them.

    Args:
        student: a network with its `taps`, or whose taps are in the card.
        between: maps its last stage map (n, c, h, w) to (n, d, h, w).
        head: linear, d to classes.
        card: plain numbers from which the structure can be made again.

    Attributes:
        card: these, with the places where the student is cut.

    Raises:
        ValueError: when it is not known where to cut the student.
    """

    def __init__(
        self, student: nn.Module, between: nn.Module, head: nn.Linear, card: dict[str, Any]
    ) -> None:
        super().__init__()
        if "cut" not in card:
            taps = getattr(student, "taps", None)
            if taps is None:
                raise ValueError(
                    f"{type(student).__name__} has no taps; set them, as in "
                    "student.taps = Taps(maps=('layer1', 'layer2'), head='fc')."
                )
            layout = dict(taps.layouts).get((taps.maps[-1], "out"))
            card = card | {
                "cut": taps.maps[-1],
                "classifier": taps.head,
                "layout": layout and asdict(layout),
            }
        self.card = card
        self.layout = _layout(card.get("layout"))
        self.backbone = shared_copy(student)
        if card["classifier"]:
            self.backbone.set_submodule(card["classifier"], DroppedClassifier())
        self.backbone.get_submodule(card["cut"]).register_forward_hook(store_output)
        self.projector = shared_copy(between)
        self.head = shared_copy(head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, k) of images (n, c, h, w)."""
        self.backbone(images)
        cut = self.backbone.get_submodule(self.card["cut"])
        maps = self.layout.arrange(cast(Tensor, cut.seen))
        del cut.seen
        if self.card["size"] is not None:
            height, width = self.card["size"]
            maps = downsample(maps, (min(height, maps.shape[2]), min(width, maps.shape[3])))
        return self.head(self.projector(maps).mean(dim=(2, 3)))


def _layout(plain: dict[str, Any] | None) -> Layout:
    """A layout from its fields, perhaps through JSON; None for (n, c, h, w) as it is."""
    if not plain:
        return Layout()
    grid = plain["grid"]
    return Layout(**plain | {"grid": None if grid is None else (grid[0], grid[1])})


class DroppedClassifier(nn.Module):
    """Stands where a classifier stood whose logits are not wanted."""

    def forward(self, taken: Tensor) -> Tensor:
        """(n, 1) of (n, d), likewise of maps: of a size that adds to what a second head gives."""
        return taken[:, :1]


def store_output(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
    """Forward hook that leaves the output where `ReusedClassifier` finds it; it survives a deep copy."""
    module.seen = output


def shared_copy(module: nn.Module) -> nn.Module:
    """New modules around the same parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def projector(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """1 x 1, 3 x 3, 1 x 1 convolutions, each with batch normalisation and ReLU."""
    width = out_channels // factor
    layers: list[nn.Module] = []
    shapes = ((in_channels, width, 1), (width, width, 3), (width, out_channels, 1))
    for wide, to, kernel in shapes:
        layers += [
            nn.Conv2d(wide, to, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(to),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def single_linear(head: nn.Module) -> nn.Linear:
    """The one linear layer that a classifier consists of, dropout aside, frozen.

    Raises:
        ValueError: when there is more to it.
    """
    leaves = [each for each in head.modules() if not list(each.children())]
    linear = [each for each in leaves if isinstance(each, nn.Linear)]
    idle = (nn.Linear, nn.Dropout, nn.Identity, nn.Flatten)
    if len(linear) != 1 or not all(isinstance(each, idle) for each in leaves):
        names = ", ".join(type(each).__name__ for each in leaves)
        raise ValueError(f"the teacher's classifier must be one linear layer; it is {names}.")
    return linear[0].requires_grad_(False)

"""A student's backbone with the teacher's classifier, as one module to save and export."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from distillers.features.layout import Layout
from distillers.losses.ops.feature_maps import downsample


class ReusedClassifier(nn.Module):
    """Backbone of the student, projector, average pooling and classifier of the teacher.

    The modules are copies that share the original parameters and buffers: training the originals
    trains this module, but changes of its structure or mode do not affect them.

    Args:
        student: the network whose backbone is used.
        between: the projector, maps the student's last map (n, c, h, w) to (n, d, h, w).
        head: linear layer from d to the number of classes.
        card: JSON-compatible description from which the structure can be rebuilt. `cut` and
            `classifier` are the paths of the student's last stage and classifier, `layout` is that
            of the map there, and `size` what it is averaged down to, or None.

    Attributes:
        card: as given.
    """

    def __init__(
        self, student: nn.Module, between: nn.Module, head: nn.Linear, card: dict[str, Any]
    ) -> None:
        super().__init__()
        self.card = card
        self.layout = _layout(card.get("layout"))
        self.backbone = shared_copy(student)
        if card["classifier"]:
            self.backbone.set_submodule(card["classifier"], DroppedClassifier())
        self.backbone.get_submodule(card["cut"]).register_forward_hook(store_output)
        self.projector = shared_copy(between)
        self.head = shared_copy(head)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, c, h, w)."""
        self.backbone(images)
        cut = self.backbone.get_submodule(self.card["cut"])
        maps = self.layout.arrange(cast(Tensor, cut.seen))
        del cut.seen
        if self.card["size"] is not None:
            height, width = self.card["size"]
            maps = downsample(maps, (min(height, maps.shape[2]), min(width, maps.shape[3])))
        return self.head(self.projector(maps).mean(dim=(2, 3)))


def _layout(plain: dict[str, Any] | None) -> Layout:
    """Return the layout of the given fields, possibly read from JSON; None is (n, c, h, w)."""
    if not plain:
        return Layout()
    grid = plain["grid"]
    return Layout(**plain | {"grid": None if grid is None else (grid[0], grid[1])})


class DroppedClassifier(nn.Module):
    """Placeholder for a classifier whose logits are not needed."""

    def forward(self, taken: Tensor) -> Tensor:
        """Return the first column (n, 1), which broadcasts against a second classifier's output."""
        return taken[:, :1]


def store_output(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
    """Forward hook that stores the output for `ReusedClassifier`; it survives a deep copy."""
    module.seen = output


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module that shares its parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def projector(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """Return 1x1, 3x3 and 1x1 convolutions, each with batch normalization and ReLU."""
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
    """Return the only linear layer of a classifier, frozen; dropout is ignored.

    Raises:
        ValueError: if the classifier has other layers.
    """
    leaves = [each for each in head.modules() if not list(each.children())]
    linear = [each for each in leaves if isinstance(each, nn.Linear)]
    idle = (nn.Linear, nn.Dropout, nn.Identity, nn.Flatten)
    if len(linear) != 1 or not all(isinstance(each, idle) for each in leaves):
        names = ", ".join(type(each).__name__ for each in leaves)
        raise ValueError(f"the teacher's classifier must be one linear layer; it is {names}.")
    rows = linear[0].weight.detach()  # as embeddings
    if not torch.allclose(head.eval()(rows), linear[0](rows), atol=1e-5):
        raise ValueError(
            f"the teacher's classifier must be one linear layer; {type(head).__name__} computes "
            "something else with it."
        )
    return linear[0].requires_grad_(False)

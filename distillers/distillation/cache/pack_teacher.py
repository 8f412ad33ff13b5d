"""A pack as the only teacher of a run, without the network that computed it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distillers.distillation.cache.pack import Pack
from distillers.errors import InputError
from distillers.features.backbone import HeadedNetwork
from distillers.losses import wiring

OF_TEACHER = {*wiring.FROM_TEACHER, *wiring.FROM_TEACHER_STRONG}
OF_TEACHER |= {name for name in wiring.FACTS if name.startswith("teacher_")}
SIDE = 4  # of the grid of mean values that stands for an image


class PackEmbedding(nn.Module):
    """Embeddings with the width of a pack's, so that losses can be built and checked before it.

    They are no embeddings of the teacher. Training reads the pack.

    Attributes:
        is_closed: whether it is an error to run this.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_classes = 0
        self.pool = nn.AdaptiveAvgPool2d(SIDE)
        self.project = nn.Linear(SIDE**2, dim)
        self.is_closed = False

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, d) for images (n, c, h, w)."""
        if self.is_closed:
            raise RuntimeError("the teacher is a pack, which has no outputs for other images.")
        return self.project(self.pool(images.mean(1)).flatten(1))


def pack_network(pack: Pack) -> HeadedNetwork:
    """Return a network whose outputs have the widths of a pack's, to build and check losses."""
    classes = pack.widths.get("teacher_logits", 0)
    dim = pack.widths.get("teacher_pooled", 1)
    with torch.random.fork_rng(devices=[]):  # the run draws what it would with the teacher itself
        embedding = PackEmbedding(dim)
        return HeadedNetwork(embedding, nn.Linear(dim, classes) if classes else None)


def close_pack_networks(nets: Iterable[nn.Module]) -> None:
    """Refuse to run the networks of `pack_network` among `nets` from now on."""
    for module in (module for net in nets for module in net.modules()):
        if isinstance(module, PackEmbedding):
            module.is_closed = True


def pack_card(pack: Pack) -> dict[str, Any]:
    """Return the card of the teacher of a pack."""
    return {
        "model": pack.manifest["teacher"]["model"],
        "num_classes": pack.widths.get("teacher_logits", 0),
        "class_names": pack.manifest["class_names"],
    }


def check_losses(pack: Pack, names: Iterable[str]) -> None:
    """Check that losses, by name, need no more of the only teacher than its pack has.

    Raises:
        InputError: naming the first that does, what it needs, and losses that need no more.
    """
    have = pack.widths.keys() | ({"teacher_dim"} if "teacher_pooled" in pack.widths else set())
    lacking = OF_TEACHER - have
    for name in names:
        missing = sorted(wiring.reads(wiring.find(name)) & lacking)
        if missing:
            others = [
                each for each, loss in wiring.losses().items() if not wiring.reads(loss) & lacking
            ]
            raise InputError(
                f"the loss {name} needs {', '.join(missing)}, but the pack {pack.folder} has only "
                f"{', '.join(pack.widths)}; these need no more: {', '.join(sorted(others))}. Or "
                "give the teacher itself with --path_t."
            )

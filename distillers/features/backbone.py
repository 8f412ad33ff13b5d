"""Networks without a classifier, and networks whose classifier is a module beside them."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from distillers.errors import InputError
from distillers.features.taps import Taps
from distillers.features.unwrap import unwrap

TOLERANCE = 1e-4  # relative difference of an embedding with and without the classifier


class HeadedNetwork(nn.Module):
    """A backbone, and a head that maps its embeddings to logits.

    Args:
        net: maps images (n, c, h, w) to embeddings (n, d), or to maps (n, d, h, w), which are
            averaged over their positions. If it declares `taps`, this module declares the same
            places.
        head: maps embeddings (n, d) to logits (n, k). Without one the embeddings are returned.
        transform: changes the embeddings (n, d) of the backbone first, as a standardization does.
    """

    def __init__(
        self,
        net: nn.Module,
        head: nn.Module | None = None,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.transform = transform
        self.head = head or nn.Identity()
        declared = getattr(net, "taps", None)
        if isinstance(declared, Taps):
            inner = declared.under("net")
            final = "head" if declared.final and declared.final == declared.head else inner.final
            object.__setattr__(self, "taps", replace(inner, head="head", final=final))

    @property
    def has_logits(self) -> bool:
        """Whether there is a head."""
        return not isinstance(self.head, nn.Identity)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, c, h, w); embeddings (n, d) without a head."""
        return self.head(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings (n, d) of images (n, c, h, w).

        Raises:
            InputError: if the backbone returns something else.
        """
        found = self.net(images)
        if isinstance(found, Tensor) and found.ndim == 4:
            found = found.mean((2, 3))
        if not isinstance(found, Tensor) or found.ndim != 2:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"{type(self.net).__name__} returns {what} for {len(images)} images; a backbone "
                "must return embeddings (n, d) or maps (n, d, h, w)."
            )
        found = found.to(torch.promote_types(images.dtype, torch.float32))
        return found if self.transform is None else self.transform(found)


def headed(net: nn.Module) -> tuple[str, HeadedNetwork] | None:
    """Return the path and the module of the first `HeadedNetwork` in `net`, itself included."""
    found = ((path, each) for path, each in net.named_modules() if isinstance(each, HeadedNetwork))
    return next(found, None)


def has_logits(net: nn.Module) -> bool:
    """Return whether a network has a classifier, as far as it declares it.

    It has none if it is a `HeadedNetwork` without head, or its `num_classes` is 0 as in timm.
    """
    found = headed(net)
    if found:
        return found[1].has_logits
    return num_classes(net) != 0


def num_classes(net: nn.Module) -> int | None:
    """Return the `num_classes` that a network declares as timm's do, in wrappers too, else None."""
    path, _ = unwrap(net)
    module = net
    for name in ("", *path.split(".")):
        module = module.get_submodule(name)
        number = getattr(module, "num_classes", None)
        if isinstance(number, int):
            return number
    return None


def without_classifier(net: nn.Module, path: str) -> nn.Module:
    """Return a network that shares the modules of `net` but has no classifier.

    Args:
        net: the network; it is not changed.
        path: of its classifier, which is replaced by the identity in the result.
    """
    top = _shallow_copy(net)
    module = top
    *parents, last = path.split(".")
    for name in parents:
        child = _shallow_copy(module.get_submodule(name))
        module.register_module(name, child)
        module = child
    module.register_module(last, nn.Identity())
    return top


def check_same_embedding(net: HeadedNetwork, images: Tensor, expected: Tensor) -> None:
    """Check that a network without its classifier returns what was the classifier's input.

    Raises:
        InputError: if it does not, because more than averaging stands around the classifier.
    """
    tolerance = TOLERANCE * float(expected.abs().max())
    try:
        with torch.no_grad():
            found = net(images)
        is_same = found.shape == expected.shape and torch.allclose(found, expected, 0, tolerance)
    except (RuntimeError, TypeError):  # what is around the classifier does not take embeddings
        is_same = False
    if not is_same:
        raise InputError(
            f"{type(net.net).__name__} has no embedding that can be read: it has more than one "
            "classifier, or layers after it. Give a network that returns embeddings (n, d), and "
            "set its num_classes to 0."
        )


def _shallow_copy(module: nn.Module) -> nn.Module:
    """Return a module with copies of the dicts of hooks and children."""
    found = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            object.__setattr__(found, name, copy.copy(value))
    return found

"""Map the logits of a network to other classes, many to one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillers.features.taps import declare_inner_taps

RARE = 1e-6  # probability of a class that no class of the network is mapped to


class ClassMap(nn.Module):
    """Sum the probabilities of the classes that are mapped to one class.

    The logit of a class is the logarithm of the sum of the exponentials of those mapped to it, so
    that its softmax is the sum of their probabilities, divided by that of all mapped classes. A
    class that none is mapped to gets the probability 1e-6.

    Args:
        assignment: for each class of the network the class that it is mapped to, -1 for none.
        num_classes: k, the number of classes to map to.

    Raises:
        ValueError: if no class is mapped, or one to a class that does not exist.
    """

    assignment: Tensor
    kept: Tensor

    def __init__(self, assignment: Sequence[int], num_classes: int) -> None:
        super().__init__()
        given = torch.as_tensor(assignment, dtype=torch.int64)
        if not (given >= 0).any() or int(given.max()) >= num_classes or int(given.min()) < -1:
            raise ValueError(f"a class map to {num_classes} classes holds {given.tolist()}.")
        self.num_classes = num_classes
        self.num_from = len(given)
        self.register_buffer("kept", (given >= 0).nonzero()[:, 0])
        self.register_buffer("assignment", given[given >= 0])

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits (n, k) of the classes mapped to, from those of the network (n, k_t)."""
        logits = logits[:, self.kept]
        target = self.assignment.expand_as(logits)
        shape = len(logits), self.num_classes
        largest = logits.new_full(shape, -math.inf).scatter_reduce(1, target, logits, "amax")
        terms = (logits - largest.gather(1, target)).exp()
        sums = logits.new_zeros(shape).scatter_add(1, target, terms)
        found = largest + sums.log()
        rare = logits.logsumexp(1, keepdim=True) + math.log(RARE)
        return torch.where(sums > 0, found, rare)

    def extra_repr(self) -> str:
        """Return the numbers of classes."""
        return f"{self.num_from} classes to {self.num_classes}"


class MappedNetwork(nn.Module):
    """A network whose logits are mapped to other classes.

    Args:
        net: maps images (n, c, h, w) to logits (n, k_t). If it declares `taps`, this module
            declares the same places.
        class_map: maps these logits to logits (n, k).
    """

    def __init__(self, net: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.net = net
        self.class_map = class_map
        declare_inner_taps(self, net)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, k) of images (n, c, h, w)."""
        return self.class_map(self.net(images))

"""How policies decide on the operations of each image, from its random numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.special import betaincinv, gammaincinv, ndtri
from typing_extensions import override

from distillers.config.augmentation import LEVELS
from distillers.data.augment.operations import Operation


class Group(NamedTuple):
    """Images that get the same operation.

    Attributes:
        kernel: as in `Operation`.
        rows: (m,) int64, their places in the batch.
        arguments: (m, a).
    """

    kernel: str
    rows: np.ndarray
    arguments: np.ndarray


Chain = list[list[Group]]  # operations that follow each other


class Draw(NamedTuple):
    """The operations that a policy has drawn for a batch of n images.

    Attributes:
        chains: each is applied to the unchanged images.
        weights: (n, chains) share of each chain in the result, None for a single one.
        kept: (n,) share of the unchanged image in the result; None for none.
    """

    chains: list[Chain]
    weights: np.ndarray | None = None
    kept: np.ndarray | None = None


class Policy(Protocol):
    """A policy.

    Attributes:
        num_draws: random numbers that each image needs.
    """

    num_draws: int

    def draw(self, draws: np.ndarray) -> Draw:
        """Return the operations of each image, a function of draws (n, num_draws) in (0, 1)."""


@dataclass(frozen=True)
class Choice:
    """An operation that an image may get.

    Attributes:
        operation: see `Operation`.
        magnitude: its mean.
        prob: probability that it is applied if it is chosen.
        std: standard deviation of the magnitude; infinite for uniform from 0 to `magnitude`.
        highest: limit of the magnitude.
    """

    operation: Operation
    magnitude: float
    prob: float = 1.0
    std: float = 0.0
    highest: float = LEVELS

    def group(self, rows: np.ndarray, draws: np.ndarray) -> Group:
        """Return those of `rows` (m,) int64, for which it was chosen, to which it is applied.

        The draws (n, 3) of all images are for whether it is applied, the magnitude, and the sign.
        """
        rows = rows[draws[rows, 0] < self.prob]
        at, draw = draws[rows, 1], draws[rows, 2]
        level = np.full(len(rows), float(self.magnitude))
        if np.isinf(self.std):
            level *= at
        elif self.std:
            level += self.std * ndtri(at)
        level = np.clip(level, 0, self.highest)
        return Group(self.operation.kernel, rows, self.operation.argument(level, draw)[:, None])


class RandomPolicy(Policy):
    """Apply operations that are drawn for each image, one after the other.

    Args:
        choices: the operations.
        num_layers: how many each image gets.
        weights: of the choices, which are then drawn without replacement; None for equal ones.
    """

    def __init__(
        self, choices: Sequence[Choice], num_layers: int, weights: Sequence[float] | None = None
    ) -> None:
        self._choices, self._num_layers = choices, num_layers
        self._weights = None if weights is None else np.array(weights)
        self.num_draws = 4 * num_layers if weights is None else 3 * num_layers + len(choices)

    @override
    def draw(self, draws: np.ndarray) -> Draw:
        own = draws[:, : 3 * self._num_layers].reshape(len(draws), self._num_layers, 3)
        rest = draws[:, 3 * self._num_layers :]
        if self._weights is None:
            chosen = (rest * len(self._choices)).astype(np.int64)
        else:  # the first arrivals of independent exponential clocks
            chosen = (-np.log(rest) / self._weights).argsort(1, kind="stable")
        return Draw(
            [[choose(self._choices, chosen[:, i], own[:, i]) for i in range(self._num_layers)]]
        )


class SequencePolicy(Policy):
    """Apply one of several equally long sequences of operations to each image."""

    def __init__(self, sequences: Sequence[Sequence[Choice]]) -> None:
        self._sequences = sequences
        self._depth = len(sequences[0])
        self.num_draws = 1 + 3 * self._depth

    @override
    def draw(self, draws: np.ndarray) -> Draw:
        chosen = (draws[:, 0] * len(self._sequences)).astype(np.int64)
        own = draws[:, 1:].reshape(len(draws), self._depth, 3)
        layers = [
            choose([sequence[i] for sequence in self._sequences], chosen, own[:, i])
            for i in range(self._depth)
        ]
        return Draw([layers])


class AugMixPolicy(Policy):
    """Mix each image with several chains of operations on it.

    Args:
        choices: the operations.
        width: number of chains.
        depth: length of each; 0 draws it from 1 to 3.
        alpha: of the Dirichlet and Beta distributions of the shares.
    """

    LONGEST = 3

    def __init__(self, choices: Sequence[Choice], width: int, depth: int, alpha: float) -> None:
        self._choices, self._width, self._alpha = choices, width, alpha
        self._random_depth, self._depth = not depth, depth or self.LONGEST
        self.num_draws = 1 + 2 * width + 4 * width * self._depth

    @override
    def draw(self, draws: np.ndarray) -> Draw:
        n, width = len(draws), self._width
        kept = betaincinv(self._alpha, self._alpha, draws[:, 0])
        shares = gammaincinv(self._alpha, draws[:, 1 : 1 + width])
        shares /= np.maximum(shares.sum(1, keepdims=True), np.finfo(float).tiny)
        lengths = np.full((n, width), self._depth)
        if self._random_depth:
            lengths = 1 + (draws[:, 1 + width : 1 + 2 * width] * self.LONGEST).astype(np.int64)
        own = draws[:, 1 + 2 * width :].reshape(n, width, self._depth, 4)
        chosen = (own[..., 3] * len(self._choices)).astype(np.int64)
        chosen[np.arange(self._depth) >= lengths[..., None]] = -1
        chains = [
            [choose(self._choices, chosen[:, i, j], own[:, i, j]) for j in range(self._depth)]
            for i in range(width)
        ]
        return Draw(chains, shares * (1 - kept)[:, None], kept)


class FlipPolicy(Policy):
    """Mirror images left and right, and top and bottom, each with a probability."""

    num_draws = 2

    def __init__(self, horizontal: float, vertical: float) -> None:
        self._probs = {"hflip": horizontal, "vflip": vertical}

    @override
    def draw(self, draws: np.ndarray) -> Draw:
        chain = []
        for (kernel, prob), drawn in zip(self._probs.items(), draws.T, strict=True):
            rows = np.flatnonzero(drawn < prob)
            chain.append([Group(kernel, rows, np.zeros((len(rows), 1)))] if len(rows) else [])
        return Draw([chain])


class ColorJitterPolicy(Policy):
    """Change brightness, contrast and saturation, in random order.

    Each factor is uniform from 1 - strength, at least 0, to 1 + strength.
    """

    KERNELS = ("brightness", "contrast", "color")
    num_draws = 6

    def __init__(self, strength: float) -> None:
        low, high = max(0.0, 1 - strength), 1 + strength
        self._choices = [uniform_choice(kernel, low, high) for kernel in self.KERNELS]

    @override
    def draw(self, draws: np.ndarray) -> Draw:
        order, factors = draws[:, :3].argsort(1), draws[:, 3:]
        own = np.broadcast_to(factors[..., None], (*factors.shape, 3))  # draw 0 is below prob 1
        rows = np.arange(len(draws))
        return Draw([[choose(self._choices, each, own[rows, each]) for each in order.T]])


class FixMatchPolicy(RandomPolicy):
    """Two operations of random magnitude, then a square of up to half of the side cut out."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        super().__init__(choices, 2)
        self._first = self.num_draws
        self.num_draws += 3

    @override
    def draw(self, draws: np.ndarray) -> Draw:
        chain = super().draw(draws[:, : self._first]).chains[0]
        square = draws[:, self._first :] * np.array([0.5, 1.0, 1.0])
        return Draw([[*chain, [Group("cutout", np.arange(len(draws)), square)]]])


def uniform_choice(
    kernel: str, low: float, high: float, round_: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> Choice:
    """Return an operation that is always applied, with an argument uniform in (low, high)."""
    return Choice(Operation(kernel, lambda _, draw: round_(low + (high - low) * draw)), LEVELS)


def choose(choices: Sequence[Choice], chosen: np.ndarray, draws: np.ndarray) -> list[Group]:
    """Return the groups of a layer; `chosen` (n,) int64 are the images' choices, -1 for none.

    The draws are (n, 3 or more); see `Choice.group`.
    """
    groups = []
    for number, choice in enumerate(choices):
        rows = np.flatnonzero(chosen == number)
        if choice.operation.kernel and len(rows):
            group = choice.group(rows, draws)
            groups += [group] if len(group.rows) else []
    return groups

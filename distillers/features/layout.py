"""How a module's output becomes a map (n, c, h, w): tokens on a grid, channels first or last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from distillers.errors import InputError

USUAL_PREFIXES = (0, 1, 2, 5)  # tokens in front: none, class, class and distilled, four registers


@dataclass(frozen=True)
class Layout:
    """The order of an output's dimensions, decided once, on a probing forward.

    Attributes:
        grid: rows and columns of the tokens in (n, t, c), which lie row by row; None for a map of
            four dimensions.
        prefix: tokens before those, which stand for no place: class, distillation, registers. They
            are left out of the map.
        channels_last: a map of four dimensions is (n, h, w, c), not (n, c, h, w).
    """

    grid: tuple[int, int] | None = None
    prefix: int = 0
    channels_last: bool = False

    def arrange(self, value: Tensor) -> Tensor:
        """`value` as a map (n, c, h, w), a view wherever that is possible.

        Raises:
            InputError: for another number of tokens than the grid has.
        """
        if self.channels_last:
            return value.permute(0, 3, 1, 2)
        if self.grid is None:
            return value
        height, width = self.grid
        if value.shape[1] != self.prefix + height * width:
            raise InputError(
                f"there are {value.shape[1]} tokens where {self.prefix} and a grid of {height} x "
                f"{width} were found before; a network is read at one size of images."
            )
        return value[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)


PLAIN = Layout()


def guess(
    shape: Sequence[int],
    image_size: tuple[int, int],
    *,
    prefix: int | None = None,
    channels: int | None = None,
    channels_last: bool = False,
) -> Layout | None:
    """The layout of an output, by its shape; None where it can be no map of the image.

    A map keeps the proportions of the image and is not larger. Where two layouts fit, fewer tokens
    in front are preferred.

    Args:
        shape: of the output, the batch first.
        image_size: (h, w) of the images that were fed.
        prefix: the tokens in front, where the network tells.
        channels: the channels of the map, where they are known.
        channels_last: prefer (n, h, w, c) to (n, c, h, w) where both fit.
    """
    if len(shape) == 4:
        _, first, middle, last = shape
        is_plain = _fits((middle, last), image_size) and channels in (None, first)
        is_last = _fits((first, middle), image_size) and channels in (None, last)
        if is_plain and not (is_last and channels_last):
            return PLAIN
        if is_last:
            return Layout(channels_last=True)
    if len(shape) == 3 and channels in (None, shape[2]):
        for before in (*([] if prefix is None else [prefix]), *USUAL_PREFIXES):
            grid = _grid(shape[1] - before, image_size)
            if grid is not None:
                return Layout(grid=grid, prefix=before)
    return None


def _grid(count: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of `count` places in the image's proportions, or None."""
    if count < 2:
        return None  # a single token is rather an embedding than a map
    rows = round(math.sqrt(count * image_size[0] / image_size[1])) or 1
    grid = (rows, count // rows)
    return grid if rows * grid[1] == count and _fits(grid, image_size) else None


def _fits(size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether a map of this size keeps the proportions of the image, up to rounding."""
    (height, width), (image_height, image_width) = size, image_size
    if not (0 < height <= image_height and 0 < width <= image_width):
        return False
    if abs(height - width * image_height / image_width) < 1:
        return True
    # or one stride gives both sides, each rounded up
    largest = min(_ratio(image_height, height - 1), _ratio(image_width, width - 1))
    return max(image_height / height, image_width / width) < largest


def _ratio(length: int, count: int) -> float:
    return length / count if count else math.inf

"""Convert the output of a module to a map (n, c, h, w): token grids, channels first or last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from distillers.errors import InputError

USUAL_PREFIXES = (0, 1, 2, 5)  # none, class, class and distillation, class and four registers


@dataclass(frozen=True)
class Layout:
    """Order of the dimensions of an output.

    Attributes:
        grid: rows and columns of the tokens (n, t, c), in row-major order; None for outputs of four
            dimensions.
        prefix: number of leading tokens without a position (class, distillation, registers), which
            are not part of the map.
        channels_last: whether an output of four dimensions is (n, h, w, c).
    """

    grid: tuple[int, int] | None = None
    prefix: int = 0
    channels_last: bool = False

    def arrange(self, value: Tensor) -> Tensor:
        """Return `value` as a map (n, c, h, w), a view of it.

        Raises:
            InputError: if the number of tokens is not that of the grid.
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

    def tokens(self, value: Tensor) -> Tensor:
        """Return the tokens (n, t, d) that have a position in the image, a view of `value`."""
        return value[:, self.prefix :]


PLAIN = Layout()


def guess(
    shape: Sequence[int],
    image_size: tuple[int, int],
    *,
    prefix: int | None = None,
    channels: int | None = None,
    channels_last: bool = False,
) -> Layout | None:
    """Infer the layout of an output from its shape; None if it cannot be a map of the image.

    A map has the aspect ratio of the image and is not larger. If several layouts fit, the one with
    the fewest prefix tokens is returned.

    Args:
        shape: of the output, batch first.
        image_size: (h, w) of the images.
        prefix: number of prefix tokens, if known.
        channels: channels of the map, if known.
        channels_last: prefer (n, h, w, c) to (n, c, h, w) if both fit.
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
    """Return rows and columns of `count` tokens in the aspect ratio of the image, or None."""
    if count < 2:
        return None  # a single token is an embedding rather than a map
    rows = round(math.sqrt(count * image_size[0] / image_size[1])) or 1
    grid = (rows, count // rows)
    return grid if rows * grid[1] == count and _fits(grid, image_size) else None


def _fits(size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Return whether a size has the aspect ratio of the image, up to rounding."""
    (height, width), (image_height, image_width) = size, image_size
    if not (0 < height <= image_height and 0 < width <= image_width):
        return False
    if abs(height - width * image_height / image_width) < 1:
        return True
    # or both sides are those of the image divided by one stride, rounded up
    largest = min(_ratio(image_height, height - 1), _ratio(image_width, width - 1))
    return max(image_height / height, image_width / width) < largest


def _ratio(length: int, count: int) -> float:
    return length / count if count else math.inf

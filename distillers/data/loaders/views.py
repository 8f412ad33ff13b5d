"""Fixed augmented views of each image, and the view that each epoch shows."""

import torch
from torch import Tensor

from distillers.config.data import NumViews
from distillers.data.sampling import generator
from distillers.data.source import DataSource
from distillers.errors import InputError

VIEW_SEED = 0  # one for all runs, so that what was computed of a view serves every trial
ROWS = 4096  # images whose crops are put in order at once: bounded memory


def check_views(views: NumViews | None, num_crops: int | None) -> None:
    """Check that images of which each has `num_crops` crops, None for no limit, can have `views`.

    Raises:
        InputError: saying what is allowed.
    """
    if views is None or (views == "all" and num_crops):
        return
    if views == "all":
        raise InputError(
            "--views all needs images in memory, whose crops can be counted; an image in a file, "
            "or with --scale or --ratio, has endlessly many. Say how many each shall have, as in "
            "--views 4."
        )
    most = f"1 to {num_crops}, or all" if num_crops else "at least 1"
    if not 1 <= views <= (num_crops or views):
        raise InputError(f"--views is {views}; it must be {most}.")


def resolve_views(views: NumViews | None, cached: bool, source: DataSource) -> NumViews | None:
    """Return the number of views of a run: as given, or all of them if it has a cache of each view.

    Raises:
        InputError: if there cannot be that many, or a cache needs a number.
    """
    check_views(views, source.num_crops)
    if views is not None or not cached:
        return views
    if source.num_crops is None:
        raise InputError(
            f"--teacher_cache needs --views for {source.name}, whose images in files, or with "
            "--scale or --ratio, have endlessly many crops; say how many of them each shall have, "
            "as in --views 4."
        )
    return "all"


def num_views_of(views: NumViews, source: DataSource) -> int:
    """Return the number of views per image, from the result of `resolve_views`."""
    return (source.num_crops or 0) if views == "all" else views


def view_crops(num_images: int, num_crops: int) -> Tensor:
    """Return the crop of each view, (N, num_crops) uint8: view v of image i is crop [i, v].

    Each image has a separate order, so its first V views are V different crops drawn at random,
    and what was computed of them serves a run with more views too.
    """
    rng = generator(VIEW_SEED, 0)
    orders = torch.empty(num_images, num_crops, dtype=torch.uint8)
    for part in orders.split(ROWS):
        drawn = torch.rand(part.shape, generator=rng, dtype=torch.float64)
        part.copy_(drawn.argsort(dim=1, stable=True))
    return orders


class CropViews:
    """The views of images whose crops can be counted: each offset, with `flip` mirrored or not.

    A crop may have `offsets` places along each side. `views` is how many of an image's views are
    shown; "all" if each crop is drawn at random, and its view only identified.
    """

    def __init__(self, num_images: int, offsets: int, flip: bool, views: NumViews) -> None:
        num_crops = offsets * offsets * (2 if flip else 1)
        check_views(views, num_crops)
        self._offsets, self._flip = offsets, flip
        orders = view_crops(num_images, num_crops)
        self._table = _inverse(orders) if views == "all" else orders[:, :views].clone()

    def view_of(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """Return the view of each image (m,) that has the crop `drawn`; see `crop_of`."""
        top, left, mirrored = drawn
        place = top * self._offsets + left
        return self._table[rows, place * 2 + mirrored if self._flip else place].long()

    def crop_of(self, rows: Tensor, views: Tensor) -> Tensor:
        """Return top, left and whether mirrored of a view of each image, (3, m) int64."""
        number = self._table[rows, views].long()
        place, mirrored = (number // 2, number % 2) if self._flip else (number, number * 0)
        return torch.stack([place // self._offsets, place % self._offsets, mirrored])


def _inverse(orders: Tensor) -> Tensor:
    """Return the view of each crop, (N, num_crops) uint8: crop c of image i is view [i, c]."""
    views = torch.empty_like(orders)
    counted = torch.arange(orders.shape[1], dtype=torch.uint8)
    for part, order in zip(views.split(ROWS), orders.split(ROWS), strict=True):
        part.scatter_(1, order.long(), counted.expand_as(part))
    return views

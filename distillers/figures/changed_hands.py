"""Images that a network classifies correctly and a baseline does not, and vice versa."""

import math
from collections.abc import Iterable, Sequence

import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from distillers.data.batch import Batch
from distillers.data.source import DataSource
from distillers.figures.paper import VERMILION, WIDTH, FigureData, shorten
from distillers.figures.responses import Responses

COLUMNS, ROWS = 6, 2  # of images won and of images lost
COLUMN_NAMES = ("image", "class", "right_by", "wrong_by", "wrong_class")
CELL, ABOVE, BELOW, TITLE = 0.5, 0.12, 0.13, 0.2  # inches: image, text above and below, heading


def changed_images(network: Responses, baseline: Responses) -> tuple[Tensor, Tensor]:
    """Return the indices of the images won and of those lost, (m,) int64 each.

    Sorted by the difference of the label's probability, the largest first.
    """
    here, there = _of_label(network), _of_label(baseline)
    won = (network.correct & ~baseline.correct).nonzero().flatten()
    lost = (baseline.correct & ~network.correct).nonzero().flatten()
    by = here - there
    return won[(-by[won]).argsort(stable=True)], lost[by[lost].argsort(stable=True)]


def images_at(places: Tensor, batches: Iterable[Batch], source: DataSource) -> Tensor:
    """Return images (m, 3, h, w) in [0, 1] at places (m,) of a pass over a source's images."""
    order = places.argsort()
    parts, start = [], 0
    for batch in batches:
        rows = places[order] - start
        rows = rows[(rows >= 0) & (rows < len(batch.labels))]
        parts.append(batch.images[rows.to(batch.images.device)].cpu())
        start += len(batch.labels)
    stacked = torch.cat(parts)[order.argsort()]
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (source.mean, source.std))
    return (stacked * std + mean).clamp(0, 1)


def select_examples(network: Responses, baseline: Responses) -> tuple[Tensor, Tensor]:
    """Return the first indices of `changed_images` that fit into the figure."""
    won, lost = changed_images(network, baseline)
    return won[: COLUMNS * ROWS], lost[: COLUMNS * ROWS]


def plot(
    network: Responses,
    baseline: Responses,
    class_names: Sequence[str],
    pixels: tuple[Tensor, Tensor],
) -> FigureData:
    """Show the images (m, 3, h, w) of `select_examples` with their label and wrong prediction."""
    won, lost = changed_images(network, baseline)
    kinds = ((won, network, baseline), (lost, baseline, network))
    blocks = [math.ceil(max(len(images), 1) / COLUMNS) for images in pixels]
    height = sum(TITLE + rows * (CELL + ABOVE + BELOW) for rows in blocks)
    figure = Figure(figsize=(WIDTH, height))
    top = height
    for (places, right, wrong), images, rows in zip(kinds, pixels, blocks, strict=True):
        title = f"{len(places):,} right by {right.name}, wrong by {wrong.name}"
        figure.text(0.5, (top - TITLE / 2) / height, title, ha="center", va="center", fontsize=7)
        _grid(figure, top - TITLE, images, places, wrong, class_names)
        top -= TITLE + rows * (CELL + ABOVE + BELOW)
    caption = (
        f"Test images that exactly one of {network.name} and {baseline.name} classifies correctly: "
        f"of {len(network.labels):,}, {len(won):,} were won and {len(lost):,} lost. Above each "
        "image its label, below it the wrong prediction. Shown are those whose label's probability "
        "differs most."
    )
    rows = []
    for places, right, wrong in kinds:
        for place in places.tolist():
            label, predicted = (
                class_names[int(of[place])] for of in (wrong.labels, wrong.predictions)
            )
            rows.append((place, label, right.name, wrong.name, predicted))
    return FigureData("changed_hands", figure, caption, DataFrame(rows, columns=COLUMN_NAMES))


def _of_label(responses: Responses) -> Tensor:
    """Return the probability of the label, (n,) float64."""
    return responses.logits.double().softmax(1).gather(1, responses.labels[:, None])[:, 0]


def _grid(
    figure: Figure,
    top: float,
    images: Tensor,
    places: Tensor,
    wrong: Responses,
    class_names: Sequence[str],
) -> None:
    """Draw images in rows, the first `top` inches above the bottom of the figure."""
    width, height = figure.get_size_inches()
    step = (width - CELL) / (COLUMNS - 1)
    for number, image in enumerate(images):
        row, column = divmod(number, COLUMNS)
        bottom = top - row * (CELL + ABOVE + BELOW) - ABOVE - CELL
        box = (column * step / width, bottom / height, CELL / width, CELL / height)
        cell = figure.add_axes(box)
        cell.set_axis_off()
        cell.imshow(image.permute(1, 2, 0).numpy())
        middle, place = (column * step + CELL / 2) / width, places[number]
        label, predicted = (
            shorten(class_names[int(of[place])], 11) for of in (wrong.labels, wrong.predictions)
        )
        figure.text(middle, (bottom + CELL + 0.025) / height, label, ha="center", fontsize=5.5)
        figure.text(
            middle,
            (bottom - 0.02) / height,
            predicted,
            ha="center",
            va="top",
            fontsize=5.5,
            color=VERMILION,
        )

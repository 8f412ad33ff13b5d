"""Which images changed hands: right by a network, wrong by a baseline, and the other way round."""

import math
from collections.abc import Iterable, Sequence

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from distillers.data.batch import Batch
from distillers.figures.paper import VERMILION, WIDTH, Picture, short
from distillers.figures.responses import Responses

COLUMNS, ROWS = 6, 2  # images of each kind
CSV = ("image", "class", "right_by", "wrong_by", "wrong_class")
CELL, ABOVE, BELOW, TITLE = 0.5, 0.12, 0.13, 0.2  # inches: an image, its two lines, a heading


def changed(network: Responses, baseline: Responses) -> tuple[Tensor, Tensor]:
    """Places (m,) int64 of the images won, and of those lost, the clearest first.

    The clearest is the one whose label's probability differs most between the two.

    Args:
        network: its answers.
        baseline: those of the baseline, to the same images.
    """
    here, there = _of_label(network), _of_label(baseline)
    won = (network.right & ~baseline.right).nonzero().flatten()
    lost = (baseline.right & ~network.right).nonzero().flatten()
    by = here - there
    return won[(-by[won]).argsort(stable=True)], lost[by[lost].argsort(stable=True)]


def pixels_at(places: Tensor, batches: Iterable[Batch], mean: Tensor, std: Tensor) -> Tensor:
    """The images at some places of a pass, (m, 3, h, w), 0 is black and 1 is white.

    Args:
        places: (m,) int64, each once.
        batches: the pass that the answers were given in.
        mean: (c,) of the normalisation.
        std: (c,) likewise.
    """
    order = places.argsort()
    parts, start = [], 0
    for batch in batches:
        rows = places[order] - start
        rows = rows[(rows >= 0) & (rows < len(batch.labels))]
        parts.append(batch.images[rows.to(batch.images.device)].cpu())
        start += len(batch.labels)
    stacked = torch.cat(parts)[order.argsort()]
    return (stacked * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def shown(network: Responses, baseline: Responses) -> tuple[Tensor, Tensor]:
    """The first of `changed` that fit into the picture."""
    won, lost = changed(network, baseline)
    return won[: COLUMNS * ROWS], lost[: COLUMNS * ROWS]


def draw(
    network: Responses,
    baseline: Responses,
    class_names: Sequence[str],
    pixels: tuple[Tensor, Tensor],
) -> Picture:
    """The images, their label, and what the wrong network said.

    Args:
        network: its answers.
        baseline: those of the baseline, to the same images.
        class_names: one a class.
        pixels: images (m, 3, h, w) of each of `shown`.
    """
    won, lost = changed(network, baseline)
    kinds = ((won, network, baseline), (lost, baseline, network))
    blocks = [math.ceil(max(len(images), 1) / COLUMNS) for images in pixels]
    height = sum(TITLE + rows * (CELL + ABOVE + BELOW) for rows in blocks)
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    top = height
    for (places, right, wrong), images, rows in zip(kinds, pixels, blocks, strict=True):
        title = f"{len(places):,} right by {right.name}, wrong by {wrong.name}"
        figure.text(0.5, (top - TITLE / 2) / height, title, ha="center", va="center", fontsize=7)
        _grid(figure, top - TITLE, images, places, wrong, class_names)
        top -= TITLE + rows * (CELL + ABOVE + BELOW)
    caption = (
        f"Test images that changed hands between {baseline.name} and {network.name}: of "
        f"{len(network.labels):,}, {len(won):,} were won and {len(lost):,} lost. Above each image "
        "its label, below it what the network that is wrong says. Shown are those whose label's "
        "probability differs most."
    )
    rows = []
    for places, right, wrong in kinds:
        for place in places.tolist():
            named = [class_names[int(of[place])] for of in (wrong.labels, wrong.classes)]
            values = (place, named[0], right.name, wrong.name, named[1])
            rows.append(dict(zip(CSV, values, strict=True)))
    return Picture("changed_hands", figure, caption, rows, CSV)


def _of_label(responses: Responses) -> Tensor:
    """(n,) float64, the probability of the label."""
    return responses.logits.double().softmax(1).gather(1, responses.labels[:, None])[:, 0]


def _grid(
    figure: Figure,
    top: float,
    images: Tensor,
    places: Tensor,
    wrong: Responses,
    class_names: Sequence[str],
) -> None:
    """Images in rows, the first of which begins `top` inches above the bottom of the figure."""
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
        label, said = (_name(class_names, of[place]) for of in (wrong.labels, wrong.classes))
        figure.text(middle, (bottom + CELL + 0.025) / height, label, ha="center", fontsize=5.5)
        figure.text(
            middle,
            (bottom - 0.02) / height,
            said,
            ha="center",
            va="top",
            fontsize=5.5,
            color=VERMILION,
        )


def _name(class_names: Sequence[str], label: Tensor) -> str:
    return short(class_names[int(label)], 11)

"""Confusion matrix: how many images of each class are taken for each other class."""

import numpy as np
import pandas as pd

from distillers.figures.paper import FigureData, make_panels, shorten

MAX_NAMED = 30  # classes, of which names and counts can be read


def plot(confusion: pd.DataFrame, name: str) -> FigureData:
    """Plot the share of the predictions of each class, from images by label and prediction."""
    cells = confusion.to_numpy()
    support = cells.sum(1, keepdims=True)
    share = np.divide(cells, support, out=np.zeros(cells.shape), where=support > 0)
    side = max(2.4, 0.5 + 0.2 * min(len(cells), MAX_NAMED))
    figure, (axes,) = make_panels(1, panel_height=side)
    figure.set_size_inches(side + 0.6, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(cells) <= MAX_NAMED:
        names = [shorten(str(each)) for each in confusion.index]
        axes.set_xticks(range(len(cells)), names, rotation=90)
        axes.set_yticks(range(len(cells)), names)
        for (row, column), count in np.ndenumerate(cells):
            if count:
                tint = "white" if share[row, column] > 0.5 else "black"
                place = {"ha": "center", "va": "center", "fontsize": 4.5}
                axes.text(column, row, str(count), color=tint, **place)
    axes.tick_params(length=0)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    caption = (
        f"Confusion matrix of {name} on {cells.sum():,} test images: the number of images by label "
        "and prediction, colored by the share of the label's images."
    )
    return FigureData("confusion", figure, caption, confusion.rename_axis("label").reset_index())

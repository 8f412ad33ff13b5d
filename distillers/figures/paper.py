"""Style and files of figures: one column of a paper wide, byte for byte reproducible."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from distillers.files import write_atomically, write_text

WIDTH = 3.3  # inches
DPI = 400  # of the PNG
SMALL = 6.0  # points

# Okabe and Ito's color-blind safe palette without yellow, which is too pale.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osv^D<>Pp*"

STYLE: dict[str, Any] = {
    "text.parse_math": False,  # names may contain a $
    "font.family": "DejaVu Sans",  # part of matplotlib
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,  # TrueType; many journals reject type 3
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}


@dataclass(frozen=True, eq=False)
class FigureData:
    """A figure with its caption and data.

    Attributes:
        name: stem of the file names.
        figure: matplotlib figure.
        caption: one paragraph on what is shown, for how many images, and how it was computed.
        table: content of the CSV file.
    """

    name: str
    figure: Figure
    caption: str
    table: DataFrame


@contextmanager
def paper_style() -> Iterator[None]:
    """Use the style of the figures in a context and restore matplotlib's settings after it."""
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": mpl.get_backend()}):
        yield


def num_columns(count: int) -> int:
    """Return the number of columns for a number of panels."""
    return 2 if count in (2, 4) else min(count, 3)


def make_panels(
    count: int, *, panel_height: float, extra: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels, `panel_height` inches high, in rows of `num_columns(count)`."""
    columns = num_columns(count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * panel_height + extra), layout="constrained")
    axes = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def save_figure(data: FigureData, folder: Path) -> list[Path]:
    """Write `NAME.png`, `NAME.pdf` and `NAME.csv` atomically and return their paths.

    The files contain no date, machine name or matplotlib version.
    """
    metadata = {
        "png": {"Software": None, "Description": data.caption},
        "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")) | {"Subject": data.caption},
    }
    paths = []
    for form, values in metadata.items():
        file = io.BytesIO()
        data.figure.savefig(file, format=form, dpi=DPI, metadata=values)
        paths.append(folder / f"{data.name}.{form}")
        write_atomically(paths[-1], file.getvalue())
    paths.append(folder / f"{data.name}.csv")
    write_text(paths[-1], data.table.to_csv(index=False, lineterminator="\n"))
    return paths


def shorten(text: str, length: int = 12) -> str:
    """Truncate a text to a length, the last character an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"

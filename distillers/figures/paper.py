"""How every picture looks and is kept: as wide as a paper's column, the same bytes every time."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distillers.files import write_atomically

WIDTH = 3.3  # inches
DPI = 400  # of the PNG
SMALL = 6.0  # points, the smallest letters

# Okabe and Ito's colours, which colour-blind readers tell apart; their yellow is too pale.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osv^D<>Pp*"

LOOK: dict[str, Any] = {
    "text.parse_math": False,  # a name may hold a $
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine has it
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
    "pdf.fonttype": 42,  # TrueType, whole letters that can be selected; journals refuse type 3
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, what it shows, and the numbers that it is drawn from.

    Attributes:
        name: of its files.
        figure: of matplotlib.
        caption: one paragraph that says what is drawn, from how many images, and how it was
            computed.
        table: rows of the CSV, each with the same columns.
        columns: their names, where the table may be empty.
    """

    name: str
    figure: Figure
    caption: str
    table: Sequence[Mapping[str, object]]
    columns: tuple[str, ...] = ()


@contextmanager
def look() -> Iterator[None]:
    """Inside, matplotlib draws as papers want it; its settings are the caller's again after."""
    with mpl.rc_context({**mpl.rcParamsDefault, **LOOK, "backend": mpl.get_backend()}):
        yield


def panels(
    count: int, *, columns: int, panel_height: float, extra: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure one column of a paper wide, with panels in rows.

    Args:
        count: of the panels.
        columns: how many stand in a row at most.
        panel_height: of each, in inches.
        extra: height for what stands above or below them, in inches.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * panel_height + extra), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def save(picture: Picture, folder: Path) -> list[Path]:
    """Write `NAME.png`, `NAME.pdf` and `NAME.csv`, each whole or not at all.

    Nothing of the time, the machine or matplotlib's version goes into the files.

    Args:
        picture: drawn inside `look()`, and to be saved there too.
        folder: it exists.
    """
    about = {"png": {"Software": None, "Description": picture.caption}}
    about["pdf"] = {"Creator": None, "Producer": None, "CreationDate": None}
    about["pdf"]["Subject"] = picture.caption
    paths = []
    for form, metadata in about.items():
        file = io.BytesIO()
        picture.figure.savefig(file, format=form, dpi=DPI, metadata=metadata)
        paths.append(folder / f"{picture.name}.{form}")
        write_atomically(paths[-1], file.getvalue())
    paths.append(folder / f"{picture.name}.csv")
    write_atomically(paths[-1], _as_csv(picture).encode())
    return paths


def short(text: str, length: int = 12) -> str:
    """`text` itself, or its beginning and three dots."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _as_csv(picture: Picture) -> str:
    file = io.StringIO()
    columns = picture.columns or tuple(picture.table[0])
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(picture.table)
    return file.getvalue()

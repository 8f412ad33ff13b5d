"""The operations of policies by timm's names: which kernel, and its argument at each magnitude.

Magnitudes are from 0 to 10 (--aa's mmax allows more). Each operation gets a draw from (0, 1), which
decides on the sign of its argument where it has one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from distillers.config.augmentation import LEVELS

Argument = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Which of the six numbers of an affine map an operation sets.
COLUMNS = {
    "shear_x": 1,
    "shear_y": 3,
    "translate_x": 2,
    "translate_y": 5,
    "move_x": 2,
    "move_y": 5,
}
GEOMETRIC = ("rotate", *COLUMNS)
TRANSLATION = 0.45  # of the side of an image, at magnitude 10


class Operation(NamedTuple):
    """One operation.

    Attributes:
        kernel: its name in `kernels`, or one of `GEOMETRIC`, or "" to leave images as they are.
        argument: maps magnitudes (m,) and draws (m,) to arguments (m,).
    """

    kernel: str
    argument: Argument


def sign_of(draw: np.ndarray) -> np.ndarray:
    """Return -1 for draws below a half, else 1."""
    return np.where(draw < 0.5, -1.0, 1.0)


def _scaled(most: float) -> Argument:
    return lambda level, draw: sign_of(draw) * level / LEVELS * most


def _enhance(level: np.ndarray, _: np.ndarray) -> np.ndarray:
    return level / LEVELS * 1.8 + 0.1


def _enhance_increasing(level: np.ndarray, draw: np.ndarray) -> np.ndarray:
    return np.maximum(0.1, 1 + sign_of(draw) * level / LEVELS * 0.9)


def _whole(most: int, start: int = 0, limit: int = 256, step: int = 1) -> Argument:
    """Return start + step * (the whole part of the magnitude's share of `most`)."""
    return lambda level, _: start + step * np.minimum(limit, np.floor(level / LEVELS * most))


def _share(level: np.ndarray) -> np.ndarray:
    return np.clip(level / LEVELS, 0, 1)


def _none(level: np.ndarray, _: np.ndarray) -> np.ndarray:
    return level


ENHANCED = {
    "Color": "color",
    "Contrast": "contrast",
    "Brightness": "brightness",
    "Sharpness": "sharpness",
}
OPERATIONS = {
    "Identity": Operation("", _none),
    "AutoContrast": Operation("autocontrast", _none),
    "Equalize": Operation("equalize", _none),
    "Invert": Operation("invert", _none),
    "Rotate": Operation("rotate", _scaled(30)),
    "ShearX": Operation("shear_x", _scaled(0.3)),
    "ShearY": Operation("shear_y", _scaled(0.3)),
    "TranslateXRel": Operation("translate_x", _scaled(TRANSLATION)),
    "TranslateYRel": Operation("translate_y", _scaled(TRANSLATION)),
    "Posterize": Operation("posterize", _whole(4)),
    "PosterizeIncreasing": Operation("posterize", _whole(4, start=4, step=-1)),
    "PosterizeOriginal": Operation("posterize", _whole(4, start=4)),
    "Solarize": Operation("solarize", _whole(256)),
    "SolarizeIncreasing": Operation("solarize", _whole(256, start=256, step=-1)),
    "SolarizeAdd": Operation("solarize_add", _whole(110, limit=128)),
    "Desaturate": Operation("color", lambda level, _: 0.5 - 0.5 * _share(level)),
    "GaussianBlur": Operation("gaussian_blur", lambda level, _: 0.1 + 1.9 * _share(level)),
    "GaussianBlurRand": Operation(
        "gaussian_blur", lambda level, draw: 0.1 + (2 * _share(level) - 0.1) * draw
    ),
    **{name: Operation(kernel, _enhance) for name, kernel in ENHANCED.items()},
    **{f"{name}Increasing": Operation(k, _enhance_increasing) for name, k in ENHANCED.items()},
}


def matrices(kernel: str, values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the arguments of `kernels.affine` for an operation of `GEOMETRIC`, (m, 6).

    The values (m,) are degrees counter-clockwise about the center; pixels across for each down, or
    the reverse, from the corner; a share of the side; or, for "move_x" and "move_y", pixels.
    """
    found = np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (len(values), 1))
    if kernel == "rotate":
        angle = np.radians(values)
        cos, sin, x, y = np.cos(angle), np.sin(angle), width / 2, height / 2
        rows = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
        return np.stack(rows, axis=1)
    side = {"translate_x": width, "translate_y": height}.get(kernel, 1)
    found[:, COLUMNS[kernel]] = values * side
    return found

"""An audit of teachers as one self-contained HTML page, from `templates/audit.html`."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from distillers.report.formatting import MISSING
from distillers.report.html import page_environment, template_source

SIDE = 112  # pixels of a picture on the page


def render_audit(found: Mapping[str, Any], images: Mapping[int, Tensor]) -> str:
    """Render the page.

    Args:
        found: result of `distillers.report.audit.audit`.
        images: pictures of the suspects by row, (3, h, w) uint8.
    """
    environment = page_environment()
    environment.filters["fixed"] = _fixed
    return environment.get_template("audit.html").render(
        found=found,
        css=template_source(environment, "page.css"),
        pictures={row: data_uri(image) for row, image in images.items()},
    )


def data_uri(image: Tensor) -> str:
    """Return a picture (3, h, w) uint8 as a PNG in a data URI, at most 112 pixels wide and high."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _fixed(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"

"""Images of one folder with their classes in a text file, as in Tiny ImageNet."""

from pathlib import Path

import torch

from distillers.data.datasets.listing import Listing, PathList, first_few, image_files
from distillers.errors import InputError


def list_annotated(root: Path, annotations: Path, class_names: tuple[str, ...]) -> Listing:
    """List the images of one folder, with their classes from a file of lines NAME CLASS ...

    Raises:
        InputError: if a line names an unknown class or file, or a file has no line.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    labels: dict[str, int] = {}
    for row, line in enumerate(_lines(annotations), start=1):
        words = line.split()
        if len(words) < 2 or words[1] not in numbers:
            raise InputError(
                f"{annotations}, line {row}, reads {line[:60]!r}; it must begin with the name of "
                "an image and a class that is in train/."
            )
        if labels.setdefault(words[0], numbers[words[1]]) != numbers[words[1]]:
            raise InputError(f"{annotations}, line {row}, assigns a second class to {words[0]}.")
    found = list(image_files(root, "", []))
    lacking, extra = sorted(set(found) - set(labels)), sorted(set(labels) - set(found))
    if lacking or extra or not found:
        raise InputError(
            f"{annotations} and the images in {root} do not match: {len(lacking)} "
            f"images have no line ({first_few(lacking)}), {len(extra)} lines no image "
            f"({first_few(extra)})."
        )
    order = torch.tensor([labels[name] for name in found], dtype=torch.int64)
    return Listing(PathList(root, found), order, class_names)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}).") from error

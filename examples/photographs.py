"""A small set of real photographs from a few large ones: each is a class, its parts the images.

    python examples/photographs.py PICTURE PICTURE ... --to photos [--side 256] [--most 60]

Without a picture, the two photographs that come with scikit-learn are cut. Every picture is cut
into squares that do not overlap; one that is equal to an earlier square, as in a sky of one color,
is left out. Every fifth of them goes to `photos/val/PICTURE`, the others to `photos/train/PICTURE`,
as JPEGs, as `--dataset folder` reads them.
"""

import argparse
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--side", type=int, default=256, help="of a square, in pixels")
    parser.add_argument("--most", type=int, default=60, help="squares of a picture")
    args = parser.parse_args()
    pictures = args.pictures or [Path(name) for name in load_sample_images().filenames]
    if len({picture.stem for picture in pictures}) < max(2, len(pictures)):
        parser.error("give at least two pictures with different names")
    seen: set[bytes] = set()
    for picture in pictures:
        squares = cut(picture, args.to, args.side, args.most, seen)
        print(f"{picture.stem}: {squares} squares")


def cut(picture: Path, to: Path, side: int, most: int, seen: set[bytes]) -> int:
    """Write the squares of a picture, and return how many there are.

    Args:
        picture: a file of any format that PIL reads.
        to: folder for `train` and `val`.
        side: of a square, in pixels.
        most: squares at most.
        seen: pixels of earlier squares, to which these are added.
    """
    with Image.open(picture) as opened:
        whole = opened.convert("RGB")
    places = [
        (left, top)
        for top in range(0, whole.height - side + 1, side)
        for left in range(0, whole.width - side + 1, side)
    ]
    number = 0
    for left, top in places:
        square = whole.crop((left, top, left + side, top + side))
        if number == most or square.tobytes() in seen:
            continue
        seen.add(square.tobytes())
        folder = to / ("val" if number % 5 == 4 else "train") / picture.stem
        folder.mkdir(parents=True, exist_ok=True)
        square.save(folder / f"{number:03}.jpg", quality=90)
        number += 1
    return number


if __name__ == "__main__":
    main()

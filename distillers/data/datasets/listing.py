"""The image files of a data set: found fast, kept small, and nothing left out unsaid."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillers.errors import InputError

READABLE = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
OTHER_IMAGES = (
    *(".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif", ".jp2", ".jxl"),
    *(".cr2", ".nef", ".arw", ".dng"),
)


class PathList:
    """Many paths in one string of bytes: a million take some 40 megabytes, and copy as one.

    Args:
        root: the folder that they are relative to.
        names: the paths below it.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._bytes = b"".join(encoded)
        lengths = torch.tensor([0, *map(len, encoded)], dtype=torch.int64)
        self._ends = lengths.cumsum(0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        """The whole path of one file."""
        start, end = self._ends[number : number + 2].tolist()
        return os.path.join(self.root, os.fsdecode(self._bytes[start:end]))

    def below(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The paths of some files below the root, faster than one by one."""
        ends = self._ends.tolist()
        return (self._bytes[ends[number] : ends[number + 1]] for number in numbers)


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files with their classes.

    Attributes:
        paths: of N files.
        labels: (N,) int64, numbers of `class_names`.
        class_names: one a class, in alphabetical order where they are folders.
    """

    paths: PathList
    labels: Tensor
    class_names: tuple[str, ...]


def class_folders(root: Path) -> list[str]:
    """The names of the folders in `root`, in alphabetical order; hidden ones do not count."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()
        )


def list_classes(root: Path) -> Listing:
    """The images of a folder that holds a folder for each class, at any depth below it.

    Raises:
        InputError: where there is no class, a class has no image, a link leads back to a folder
            that it lies in, or a file is an image of a kind that cannot be read.
    """
    left_out: list[str] = []
    classes = _classes(root, left_out)
    if len(classes) < 2:
        raise InputError(
            f"{root} holds {len(classes)} folders ({', '.join(classes) or 'none'}); it must hold "
            "one for each class, and at least two."
        )
    names: list[str] = []
    counts: list[int] = []
    for name in classes:
        before = len(names)
        names.extend(_files(root, name, left_out))
        counts.append(len(names) - before)
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise InputError(
            f"no image of class {first_few(empty)} in {root}: the folder is empty. Fill it or "
            f"delete it; images end in {', '.join(READABLE)}."
        )
    if left_out:
        print(
            f"{len(left_out)} files in {root} are no images of a class and were left out: "
            f"{first_few(left_out)}",
            file=sys.stderr,
        )
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    return Listing(PathList(root, names), labels, tuple(classes))


def _classes(root: Path, left_out: list[str]) -> list[str]:
    """The folders in `root` in alphabetical order; what else lies there is added to `left_out`.

    Raises:
        InputError: for a link that leads nowhere, or in a circle.
    """
    classes = []
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.startswith("."):
                continue
            if _is(entry, "dir"):
                classes.append(entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                raise InputError(f"{entry.path} is a link that leads nowhere; delete it.")
            else:
                left_out.append(entry.name)
    return classes


def list_annotated(root: Path, annotations: Path, class_names: tuple[str, ...]) -> Listing:
    """The images in one folder, with their classes in a file: a line is NAME, CLASS, and more.

    Raises:
        InputError: where a line names a class or a file that there is not, or a file has no line.
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
            raise InputError(f"{annotations}, line {row}, gives {words[0]} a second class.")
    found = list(_files(root, "", []))
    lacking, extra = sorted(set(found) - set(labels)), sorted(set(labels) - set(found))
    if lacking or extra or not found:
        raise InputError(
            f"{annotations} and the images in {root} do not belong together: {len(lacking)} "
            f"images have no line ({first_few(lacking)}), {len(extra)} lines no image "
            f"({first_few(extra)})."
        )
    order = torch.tensor([labels[name] for name in found], dtype=torch.int64)
    return Listing(PathList(root, found), order, class_names)


def first_few(names: list[str], shown: int = 5) -> str:
    """The first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more if names else "none"


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}).") from error


def _files(root: Path, name: str, left_out: list[str]) -> Iterator[str]:
    """The image files below `root`/`name`, relative to `root`, in alphabetical order."""
    return _walk(root, name, left_out, (os.path.realpath(root),) if name else ())


def _walk(root: Path, name: str, left_out: list[str], above: tuple[str, ...]) -> Iterator[str]:
    folder = os.path.join(root, name)
    real = os.path.realpath(folder)
    if real in above:
        raise InputError(
            f"{folder} is a symbolic link to {real}, a folder that it lies in: a loop. Delete it."
        )
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        loop = "it is a loop of symbolic links" if error.errno == errno.ELOOP else str(error)
        raise InputError(f"cannot list {folder}: {loop}.") from error
    for entry in entries:
        path = os.path.join(name, entry.name)
        if entry.name.startswith("."):
            continue
        if _is(entry, "dir"):
            yield from _walk(root, path, left_out, (*above, real))
            continue
        ending = os.path.splitext(entry.name)[1].lower()
        if ending in READABLE and _is(entry, "file"):
            yield path
        elif ending in OTHER_IMAGES:
            raise InputError(
                f"{entry.path} is an image of a kind that is not read; convert it to one of "
                f"{', '.join(READABLE)}, or take it away."
            )
        elif ending in READABLE:
            raise InputError(f"{entry.path} is a link that leads nowhere; delete it.")
        else:
            left_out.append(path)


def _is(entry: os.DirEntry, what: str) -> bool:
    try:
        return entry.is_dir() if what == "dir" else entry.is_file()
    except OSError as error:
        raise InputError(f"{entry.path} is a loop of symbolic links; delete it.") from error

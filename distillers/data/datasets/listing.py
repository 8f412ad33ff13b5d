"""Lists of image files with their classes: fast, compact, and no file skipped silently."""

import errno
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillers.errors import InputError

READABLE = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
OTHER_IMAGES = (
    *(".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif", ".jp2", ".jxl"),
    *(".heif", ".jpx", ".tga", ".psd", ".mpo", ".ico", ".exr", ".hdr"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dng"),
)
# Folders that storage devices and operating systems add; they are no classes, and what is in them
# (thumbnails, deleted files) are no images of a class.
SYSTEM_FOLDERS = (
    *("@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN"),
    *("__MACOSX", "lost+found", "System Volume Information", "RECYCLER"),
)


class PathList:
    """Many paths below `root` in one byte string: a million take about 40 MB."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._bytes = b"".join(encoded)
        lengths = torch.tensor([0, *map(len, encoded)], dtype=torch.int64)
        self._ends = lengths.cumsum(0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        """Return the full path of one file."""
        start, end = self._ends[number : number + 2].tolist()
        return os.path.join(self.root, os.fsdecode(self._bytes[start:end]))

    def below(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Return the relative paths of some files; faster than one by one."""
        ends = self._ends.tolist()
        return (self._bytes[ends[number] : ends[number + 1]] for number in numbers)


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files with their classes.

    Attributes:
        paths: of N files.
        labels: (N,) int64, indices of `class_names`.
        class_names: one per class; names of folders in alphabetical order, in Unicode's NFC form.
    """

    paths: PathList
    labels: Tensor
    class_names: tuple[str, ...]


def class_folders(root: Path) -> list[str]:
    """Return the names of the folders in `root`, in alphabetical order, without system folders."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name for entry in entries if not _is_system(entry.name) and entry.is_dir()
        )


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.casefold() in map(str.casefold, SYSTEM_FOLDERS)


def list_classes(root: Path, known: tuple[str, ...] | None = None) -> Listing:
    """List a folder with one folder of images per class, at any depth below it.

    Args:
        root: the folder.
        known: all classes, of which `root` may lack some; None takes the names of the folders.

    Raises:
        InputError: if there are fewer than two classes, a class has no image or is not known, a
            symbolic link is dead or a loop, or a file is an image in a format that is not
            supported.
    """
    skipped: list[str] = []
    folders = _classes(root, skipped)
    classes = tuple(map(composed, folders)) if known is None else known
    _check_names(root, folders, classes)
    names: list[str] = []
    counts: list[int] = []
    for name in folders:
        before = len(names)
        names.extend(_files(root, name, skipped))
        counts.append(len(names) - before)
    empty = [name for name, count in zip(folders, counts, strict=True) if not count]
    if not names or (empty and known is None):
        raise InputError(
            f"no image of class {first_few(empty)} in {root}: the folder is empty. Fill it or "
            f"delete it; images end in {', '.join(READABLE)}."
        )
    if skipped:
        print(
            f"{len(skipped)} entries of {root} are not images of a class and were skipped: "
            f"{first_few(skipped)}",
            file=sys.stderr,
        )
    numbers = torch.tensor([classes.index(composed(name)) for name in folders])
    return Listing(PathList(root, names), numbers.repeat_interleave(torch.tensor(counts)), classes)


def _check_names(root: Path, folders: list[str], classes: tuple[str, ...]) -> None:
    if len(classes) < 2 or not folders:
        raise InputError(
            f"{root} holds {len(folders)} folders ({', '.join(folders) or 'none'}); it must hold "
            "one per class, and at least two."
        )
    unknown = sorted(set(map(composed, folders)) - set(classes))
    if unknown:
        raise InputError(
            f"{root} has folders that are no class of the network: {first_few(unknown)}. Its "
            f"classes are {first_few(list(classes), 10)}."
        )


def composed(name: str) -> str:
    """Return the NFC form of a name; some file systems store accents as separate characters."""
    return unicodedata.normalize("NFC", name)


def _classes(root: Path, skipped: list[str]) -> list[str]:
    """Return the folders in `root` in alphabetical order; add other entries to `skipped`.

    Raises:
        InputError: for a symbolic link that is dead or a loop, or two folders with one name in
            different Unicode forms.
    """
    classes: dict[str, str] = {}
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda each: composed(each.name)):
            if _is_system(entry.name):
                _skip(entry, entry.name, skipped)
                continue
            if _is(entry, "dir"):
                twin = classes.setdefault(composed(entry.name), entry.name)
                if twin != entry.name:
                    raise InputError(
                        f"{root} has two folders called {entry.name}, which differ only in their "
                        f"Unicode form ({twin!a} and {entry.name!a}); merge them."
                    )
            elif entry.is_symlink() and not os.path.exists(entry.path):
                raise InputError(f"{entry.path} is a dead symbolic link; delete it.")
            else:
                skipped.append(entry.name)
    return list(classes.values())


def _skip(entry: os.DirEntry, path: str, skipped: list[str]) -> None:
    """Record a system folder; hidden files, which every folder may have, are not worth a line."""
    if entry.is_dir():
        skipped.append(f"{path}/")


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
    found = list(_files(root, "", []))
    lacking, extra = sorted(set(found) - set(labels)), sorted(set(labels) - set(found))
    if lacking or extra or not found:
        raise InputError(
            f"{annotations} and the images in {root} do not match: {len(lacking)} "
            f"images have no line ({first_few(lacking)}), {len(extra)} lines no image "
            f"({first_few(extra)})."
        )
    order = torch.tensor([labels[name] for name in found], dtype=torch.int64)
    return Listing(PathList(root, found), order, class_names)


def list_images(root: Path) -> PathList:
    """List the images of a folder at any depth, in alphabetical order; print what is skipped.

    Raises:
        InputError: if there is no folder or no image, or as `list_classes` for links and formats.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; --unlabelled names a folder of images.")
    skipped: list[str] = []
    names = list(_walk(root, "", skipped, ()))
    if not names:
        raise InputError(f"{root} has no image at any depth; images end in {', '.join(READABLE)}.")
    if skipped:
        print(
            f"{len(skipped)} entries of {root} are not images and were skipped: "
            f"{first_few(skipped)}",
            file=sys.stderr,
        )
    return PathList(root, names)


def first_few(names: list[str], shown: int = 5) -> str:
    """Join the first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more if names else "none"


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}).") from error


def _files(root: Path, name: str, skipped: list[str]) -> Iterator[str]:
    """Yield the image files below `root`/`name`, relative to `root`, in alphabetical order."""
    return _walk(root, name, skipped, (os.path.realpath(root),) if name else ())


def _walk(root: Path, name: str, skipped: list[str], above: tuple[str, ...]) -> Iterator[str]:
    folder = os.path.join(root, name)
    real = os.path.realpath(folder)
    if real in above:
        raise InputError(
            f"{folder} is a symbolic link to {real}, a folder above it: a loop. Delete it."
        )
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        loop = "it is a loop of symbolic links" if error.errno == errno.ELOOP else str(error)
        raise InputError(f"cannot list {folder}: {loop}.") from error
    for entry in entries:
        path = os.path.join(name, entry.name)
        if _is_system(entry.name):
            _skip(entry, path, skipped)
            continue
        if _is(entry, "dir"):
            yield from _walk(root, path, skipped, (*above, real))
            continue
        ending = os.path.splitext(entry.name)[1].lower()
        if ending in READABLE and _is(entry, "file"):
            yield path
        elif ending in OTHER_IMAGES:
            raise InputError(
                f"{entry.path} is an image in an unsupported format; convert it to one of "
                f"{', '.join(READABLE)}, or remove it."
            )
        elif ending in READABLE:
            raise InputError(f"{entry.path} is a dead symbolic link; delete it.")
        else:
            skipped.append(path)


def _is(entry: os.DirEntry, what: str) -> bool:
    try:
        return entry.is_dir() if what == "dir" else entry.is_file()
    except OSError as error:
        raise InputError(f"{entry.path} is a loop of symbolic links; delete it.") from error

"""Lists of image files with their classes: fast, compact, and no file skipped silently."""

import errno
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillers.errors import InputError, complain, escape

READABLE = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
OTHER_IMAGES = (
    *(".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif", ".jp2", ".jxl"),
    *(".heif", ".jpx", ".j2k", ".j2c", ".jxr", ".apng", ".pnm", ".pbm", ".pcx", ".dcm"),
    *(".tga", ".psd", ".mpo", ".ico", ".exr", ".hdr"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dng"),
)
# Folders that storage devices and operating systems add; they are no classes, and what is in them
# (thumbnails, deleted files) are no images of a class.
SYSTEM_FOLDERS = (
    *("@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN"),
    *("__MACOSX", "lost+found", "System Volume Information", "RECYCLER"),
    *("@__thumb", "__pycache__", "Network Trash Folder", "Temporary Items"),
)
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")  # that may hold labels
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".7z", ".rar")


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
            entry.name for entry in entries if not _is_system(entry.name) and _is_folder(entry)
        )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of symbolic links
        return False


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.casefold() in map(str.casefold, SYSTEM_FOLDERS)


def list_classes(root: Path, known: tuple[str, ...] | None = None) -> Listing:
    """List a folder with one folder of images per class, at any depth below it.

    `known` are all classes, of which `root` may lack some; None takes the names of the folders.

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
        names.extend(image_files(root, name, skipped))
        counts.append(len(names) - before)
    empty = [name for name, count in zip(folders, counts, strict=True) if not count]
    if not names or (empty and known is None):
        other = [path for path in skipped if path.split(os.sep)[0] in empty]
        found = f"its folder holds only {first_few(other)}" if other else "the folder is empty"
        raise InputError(
            f"no image of class {first_few(empty)} in {root}: {found}. Fill it or delete it; "
            f"images end in {', '.join(READABLE)}."
        )
    if skipped:
        complain(
            f"{len(skipped)} entries of {root} are not images of a class and were skipped: "
            f"{first_few(skipped)}",
        )
    numbers = torch.tensor([classes.index(composed(name)) for name in folders])
    return Listing(PathList(root, names), numbers.repeat_interleave(torch.tensor(counts)), classes)


def _check_names(root: Path, folders: list[str], classes: tuple[str, ...]) -> None:
    if not folders:
        raise no_classes(root)
    if len(classes) < 2:
        raise InputError(
            f"{root} holds one folder ({folders[0]}); it must hold one per class, at least two. "
            f"If {root / folders[0]} holds the folders of the classes, move them to {root}."
        )
    bad = [name for name in folders if not composed(name).isprintable()]
    if bad:
        raise InputError(
            f"{root} has a folder {bad[0]!a}: names of classes must be UTF-8 without control or "
            "invisible characters; rename it."
        )
    unknown = sorted(set(map(composed, folders)) - set(classes))
    if unknown:
        raise InputError(
            f"{root} has folders that are no class of the network: {first_few(unknown)}. Its "
            f"classes are {first_few(list(classes), 10)}."
        )


def no_classes(part: Path) -> InputError:
    """Return the error for a folder of images without a folder for each class."""
    archives = _ending_in(ARCHIVES, part)
    tables = {*_ending_in(TABLES, part), *_ending_in((".csv", ".tsv"), part.parent)}
    hint = f" Extract {first_few(archives)} first." if archives else ""
    if tables and not archives:
        names = first_few(sorted(tables), 2)
        hint = f" Labels in tables ({names}) are not read: move the images by them."
    return InputError(
        f"{part} has no folder per class; the images of each class must be in a folder of their "
        f"own, as in {part}/CLASS/image.jpg.{hint}"
    )


def _ending_in(endings: tuple[str, ...], folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in endings)


def composed(name: str) -> str:
    """Return the NFC form of a name; some file systems store accents as separate characters.

    Names of files are UTF-8 in every locale.
    """
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text)


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
            if _leads_to(entry, "dir"):
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
    """Record a system folder or hidden image; every folder may have other hidden files."""
    if _is_folder(entry):
        skipped.append(f"{path}/")
    elif path.lower().endswith(READABLE) and not entry.name.startswith("._"):
        skipped.append(path)


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
        complain(
            f"{len(skipped)} entries of {root} are not images and were skipped: "
            f"{first_few(skipped)}",
        )
    return PathList(root, names)


def first_few(names: list[str], shown: int = 5) -> str:
    """Join the first few of many names, without characters that a terminal would act on."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return escape(", ".join(names[:shown])) + more if names else "none"


def image_files(root: Path, name: str, skipped: list[str]) -> Iterator[str]:
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
        if _leads_to(entry, "dir"):
            yield from _walk(root, path, skipped, (*above, real))
            continue
        ending = os.path.splitext(entry.name)[1].lower()
        if ending in READABLE and _leads_to(entry, "file"):
            yield path
        elif ending in OTHER_IMAGES:
            raise InputError(
                f"{entry.path} is an image in an unsupported format; convert it to one of "
                f"{', '.join(READABLE)}, or remove it."
            )
        elif ending in READABLE:
            kind = "no file" if os.path.exists(entry.path) else "a dead symbolic link"
            raise InputError(f"{entry.path} is {kind}; delete it.")
        else:
            skipped.append(path)


def _leads_to(entry: os.DirEntry, what: str) -> bool:
    """Return whether an entry is a folder ("dir") or a "file", itself or by a symbolic link."""
    try:
        return entry.is_dir() if what == "dir" else entry.is_file()
    except OSError as error:
        raise InputError(f"{entry.path} is a loop of symbolic links; delete it.") from error

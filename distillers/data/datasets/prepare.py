"""Unpack the official archives of ImageNet and Tiny ImageNet into one folder per class."""

import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from tqdm import tqdm

from distillers.data.datasets.download import verify_md5
from distillers.data.datasets.synsets import val_synsets
from distillers.errors import InputError, shorten
from distillers.files import DISK_FULL, naming

# As published by the organizers.
MD5 = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    "tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de",
}
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, KeyError)
SYNSET = re.compile(r"n\d{8}")  # names of the folders that are written
MAX_RATIO, SPARE = 100, 1 << 20  # of a file's size to its compressed size, beyond `SPARE` bytes


def imagenet(source: Path, to: Path, check: bool) -> None:
    """Create `to/train/n01440764/...` and `to/val/n01440764/...`; resumes an earlier attempt.

    Raises:
        InputError: for an archive that is missing, is not the official one, or is damaged.
    """
    train = _archive(source, "ILSVRC2012_img_train.tar", to, check)
    val = _archive(source, "ILSVRC2012_img_val.tar", to, check)
    try:
        if not (to / "val").is_dir():
            devkit = source / "ILSVRC2012_devkit_t12.tar.gz"
            if devkit.exists():
                _archive(source, devkit.name, to, check)
            with _opened(val) as tar:
                images = sorted(member.name for member in _files(tar))
                _require_end(tar, str(val))
                synsets = val_synsets(source, [os.path.basename(name) for name in images])
                _unpack_val(tar, to, synsets)
        with _opened(train) as tar:
            classes = [member for member in _files(tar) if member.name.endswith(".tar")]
            _require_end(tar, str(train))
            if not classes:
                raise InputError(f"{train} holds no archive of a class; download it again.")
            for member in tqdm(classes, desc="train", unit="class", disable=None):
                _unpack_class(tar, member, to / "train")
    except DAMAGED as error:
        raise InputError(
            f"an archive in {source} is damaged ({error}); download it again."
        ) from error


def tinyimagenet(source: Path, to: Path, check: bool) -> None:
    """Create `to/train`, `to/val`, `to/words.txt`; see `imagenet`."""
    path = _archive(source, "tiny-imagenet-200.zip", to, check)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            _check_sizes(path, infos, to)
            for part in ("train", "val"):
                if (to / part).is_dir():
                    continue
                scratch = to / f".{part}.part"
                for info in tqdm(infos, desc=part, unit="file", disable=None):
                    names = info.filename.split("/")[1:]
                    if names[:1] == [part] and _is_below(names):
                        target = scratch.joinpath(*names[1:])
                        with archive.open(info) as stream:
                            _write(stream, target, info.file_size)
                if not scratch.is_dir():
                    raise InputError(f"{path} has no {part}/.")
                os.replace(scratch, to / part)
            for info in infos:
                if info.filename.count("/") == 1 and info.filename.endswith(".txt"):
                    with archive.open(info) as stream:
                        _write(stream, to / os.path.basename(info.filename), info.file_size)
    except DAMAGED as error:
        raise InputError(f"{path} is damaged ({error}); download it again.") from error


def _unpack_class(outer: tarfile.TarFile, member: tarfile.TarInfo, train: Path) -> None:
    """Unpack the archive of one class within the outer archive, atomically."""
    target = train / _synset(Path(member.name).stem, str(outer.name))
    if target.is_dir():
        return
    scratch = train / f".{target.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
            for image in inner:
                _require_dense(image)
                stream = inner.extractfile(image) if image.isfile() else None
                if stream is None:
                    continue
                if (scratch / _file_name(image.name)).exists():
                    raise tarfile.ReadError(f"it has two files called {_file_name(image.name)}")
                _write(stream, scratch / _file_name(image.name), image.size)
            _require_end(inner, member.name)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise InputError(f"{member.name} in {outer.name} is damaged ({error}).") from error
    if not scratch.is_dir():
        raise InputError(f"{member.name} in {outer.name} holds no image.")
    os.replace(scratch, target)


def _unpack_val(tar: tarfile.TarFile, to: Path, synsets: dict[str, str]) -> None:
    scratch = to / ".val.part"
    for member in tqdm(_files(tar), desc="val", unit="image", disable=None):
        _require_dense(member)
        name = _file_name(member.name)
        stream = tar.extractfile(member)
        if stream is not None:
            _write(
                stream, scratch / _synset(synsets[name], "the list of labels") / name, member.size
            )
    if not scratch.is_dir():
        raise InputError(f"{tar.name} holds no image.")
    os.replace(scratch, to / "val")


def _files(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    return [member for member in tar.getmembers() if member.isfile()]


def _write(stream: IO[bytes], target: Path, size: int) -> None:
    """Write a file of `size` bytes atomically, unless one of that size exists.

    Raises:
        EOFError: if the stream is shorter or longer.
    """
    if target.exists() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with naming(part), part.open("wb") as out:
        left = size
        while left and (block := stream.read(min(left, 1 << 20))):
            out.write(block)
            left -= len(block)
        if left or stream.read(1):
            raise EOFError(f"{target.name} does not have the {size:,} bytes that are announced")
    os.replace(part, target)


def _synset(name: str, where: str) -> str:
    """Return the name of a class, which becomes the name of a folder.

    Raises:
        InputError: if it is not like n01440764, so that nothing is written elsewhere.
    """
    if not SYNSET.fullmatch(name):
        raise InputError(
            f"{where} names a class {shorten(repr(name))}; classes are called like n01440764. "
            "Fetch the official file again."
        )
    return name


def _file_name(name: str) -> str:
    """Return the last part of a path in an archive."""
    base = os.path.basename(name)
    if base in ("", ".", "..") or not base.isprintable():
        raise tarfile.ReadError(f"it has a file called {shorten(repr(name))}")
    return base


def _require_dense(member: tarfile.TarInfo) -> None:
    """Refuse sparse files, a few bytes of which fill a disk."""
    if member.issparse():
        raise tarfile.ReadError(f"{member.name} is a sparse file")


def _require_end(tar: tarfile.TarFile, name: str) -> None:
    """Verify that an archive whose members were listed ends as archives do, and is not cut short.

    Raises:
        InputError: if it does not end in an empty block.
    """
    stream = tar.fileobj
    if stream is None:
        return
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"{name} is cut short or damaged; download it again.")


def _check_sizes(path: Path, infos: Iterable[zipfile.ZipInfo], to: Path) -> None:
    """Refuse an archive that would not fit on the disk, or grows as no archive of images does."""
    total = 0
    for info in infos:
        total += info.file_size
        if info.file_size > MAX_RATIO * info.compress_size + SPARE:
            raise InputError(
                f"{info.filename} in {path} would grow from {info.compress_size:,} to "
                f"{info.file_size:,} bytes; download the official archive again."
            )
    free = shutil.disk_usage(to).free
    if total > free:
        raise InputError(
            f"{path} needs {total:,} bytes and {to} has {free:,} free; choose another --to."
        )


def _is_below(names: list[str]) -> bool:
    """Return whether a path, by its parts, leads below the first, not out of it."""
    return len(names) > 1 and not {"", ".", ".."} & set(names)


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); download it again.") from error


def _archive(source: Path, name: str, to: Path, check: bool) -> Path:
    """Return the path of an archive, after verifying its checksum once."""
    path = source / name
    if not path.is_file():
        raise InputError(f"there is no {path}; --from names the folder with the archives.")
    to.mkdir(parents=True, exist_ok=True)
    if check:
        seen = to / f".{name}.checked"
        stamp = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
        if not seen.exists() or seen.read_text() != stamp:
            print(f"checking {path}", flush=True)
            verify_md5(path, MD5[name], "fetch it again, or add --no-check if this is intended")
            seen.write_text(stamp)
    return path

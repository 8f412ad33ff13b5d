"""Unpack the official archives of ImageNet and Tiny ImageNet into one folder per class."""

import os
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
from distillers.errors import InputError

# As published by the organizers.
MD5 = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    "tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de",
}
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, KeyError)


def imagenet(source: Path, to: Path, check: bool) -> None:
    """Create `to/train/n01440764/...` and `to/val/n01440764/...`; resumes an earlier attempt.

    Args:
        source: folder of the archives.
        to: created if missing.
        check: whether to verify the archives' checksums (`MD5`) first.

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
                images = sorted(m.name for m in tar.getmembers() if m.isfile())
                synsets = val_synsets(source, [os.path.basename(name) for name in images])
                _unpack_val(tar, to, synsets)
        with _opened(train) as tar:
            for member in tqdm(tar.getmembers(), desc="train", unit="class", disable=None):
                if member.isfile() and member.name.endswith(".tar"):
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
            for part in ("train", "val"):
                if (to / part).is_dir():
                    continue
                scratch = to / f".{part}.part"
                for info in tqdm(infos, desc=part, unit="file", disable=None):
                    names = info.filename.split("/")[1:]
                    if names[:1] == [part] and _safe(names):
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
    target = train / Path(member.name).stem
    if target.is_dir():
        return
    scratch = train / f".{target.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with tarfile.open(fileobj=outer.extractfile(member)) as inner:
            for image in inner:
                stream = inner.extractfile(image) if image.isfile() else None
                if stream is not None:
                    _write(stream, scratch / os.path.basename(image.name), image.size)
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{member.name} in {outer.name} is damaged ({error}).") from error
    if not scratch.is_dir():
        raise InputError(f"{member.name} in {outer.name} holds no image.")
    os.replace(scratch, target)


def _unpack_val(tar: tarfile.TarFile, to: Path, synsets: dict[str, str]) -> None:
    scratch = to / ".val.part"
    for member in tqdm(_files(tar), desc="val", unit="image", disable=None):
        name = os.path.basename(member.name)
        stream = tar.extractfile(member)
        if stream is not None:
            _write(stream, scratch / synsets[name] / name, member.size)
    if not scratch.is_dir():
        raise InputError(f"{tar.name} holds no image.")
    os.replace(scratch, to / "val")


def _files(tar: tarfile.TarFile) -> Iterable[tarfile.TarInfo]:
    return [member for member in tar.getmembers() if member.isfile()]


def _write(stream: IO[bytes], target: Path, size: int) -> None:
    """Write a file atomically, unless one of the right size exists."""
    if target.exists() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as out:
        shutil.copyfileobj(stream, out)
    os.replace(part, target)


def _safe(names: list[str]) -> bool:
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

"""Resumable, verified and atomic downloads of dataset files."""

import hashlib
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from distillers.errors import InputError, complain
from distillers.files import DISK_FULL

TIMEOUT = 30.0  # seconds without data
TRIES = 20  # connections per file, as long as each makes progress
BLOCK = 1 << 16  # bytes per read


def fetch(url: str, target: Path, md5: str) -> None:
    """Download a file unless it exists; resume an earlier attempt.

    The data are collected in `target` with the suffix `.part`, which is renamed once its checksum
    is verified.

    Raises:
        InputError: if the download fails, or it or an existing file has another checksum.
    """
    if target.exists():
        verify_md5(target, md5, f"delete it to download {url} again")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(1, TRIES + 1):
        before = _size(part)
        try:
            _append(url, part)
            break
        except HTTPError as error:
            error.close()
            if error.code == 416 and before:  # complete already; the checksum is verified below
                break
            reason: Exception = error
        except (OSError, HTTPException) as error:
            if _size(part) > before and attempt < TRIES:
                continue
            reason = error
        kept = f" The {_size(part):,} bytes so far are kept." if part.exists() else ""
        raise InputError(
            f"could not download {url} ({reason}).{kept} Try again later, or fetch it on another "
            f"machine and put it at {target}. The dataset 'digits' needs no download."
        ) from reason
    try:
        verify_md5(part, md5, "it was deleted; try again")
    except InputError:
        part.unlink()
        raise
    os.replace(part, target)


def unpack(archive: Path, folder: Path, names: Collection[str]) -> None:
    """Extract the named files of the folder called like `folder` from a .tar.gz, atomically.

    Raises:
        InputError: if the archive is damaged or lacks one of them.
    """
    wanted = {f"{folder.name}/{name}": name for name in names}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as scratch:
        out = Path(scratch) / folder.name
        out.mkdir()
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    source = tar.extractfile(member) if member.isfile() else None
                    if source is not None and member.name in wanted:
                        with (out / wanted.pop(member.name)).open("wb") as sink:
                            copyfileobj(source, sink)
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise InputError(f"no room to unpack {archive} on the disk; make room.") from error
            raise InputError(
                f"cannot unpack {archive} ({error}); delete it to download it again."
            ) from error
        if wanted:
            raise InputError(
                f"{archive} lacks {', '.join(sorted(wanted))}; delete it to download it again."
            )
        os.replace(out, folder)


def unpacked_folder(
    name: str, folder: Path, url: str, md5: str, files: Collection[str], download: bool
) -> Path:
    """Return the folder of a dataset, downloaded and unpacked beside its archive if it is missing.

    Raises:
        InputError: if files are missing and cannot be downloaded.
    """
    data_dir, archive = folder.parent, folder.parent / url.rpartition("/")[2]
    if not _holds_anything(folder):
        if not download and not archive.exists():
            raise InputError(
                f"{name} is not in {data_dir}: there is no folder {folder}. "
                f"Fetch {url} and put it into {data_dir}, or allow the download."
            )
        with download_lock(data_dir):
            if not _holds_anything(folder):  # another process may have been faster
                fetch(url, archive, md5)
                unpack(archive, folder, files)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{folder} is incomplete, it lacks {', '.join(missing)}; "
            f"delete the folder to unpack {url} again."
        )
    return folder


@contextmanager
def download_lock(folder: Path) -> Generator[None, None, None]:
    """Let only one process at a time download into a folder; remove it if an error leaves it empty.

    Raises:
        InputError: if the folder is not writable.
    """
    created, lock = not folder.exists(), FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error}); choose another data_dir.") from error
    try:
        yield
    except InputError:
        if created and [each.name for each in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
        raise
    finally:
        lock.release()


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _append(url: str, part: Path) -> None:
    have = _size(part)
    headers = {"User-Agent": "distillers"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:  # the server ignores ranges and sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if not sys.stderr.isatty():
            complain(f"downloading {url} to {part.parent}")
        with (
            part.open("ab" if have else "wb") as out,
            tqdm(
                desc=part.stem,
                initial=have,
                total=total,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=None,
            ) as bar,
        ):
            while block := response.read(BLOCK):
                out.write(block)
                bar.update(len(block))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection closed after {_size(part):,} of {total:,} bytes")


def verify_md5(file: Path, md5: str, advice: str) -> None:
    """Verify the MD5 checksum of a file.

    Raises:
        InputError: if it differs; the message ends with `advice`.
    """
    found = _md5(file)
    if found != md5:
        raise InputError(f"{file} has md5 {found}, expected {md5}; {advice}.")


def report_unverified(name: str, folder: Path, md5: Mapping[str, str]) -> None:
    """Print which files of a dataset differ from the published MD5 sums, so may be damaged."""
    others = [file for file, expected in md5.items() if _md5(folder / file) != expected]
    if others:
        complain(
            f"{name} is not verified: {', '.join(others)} in {folder} differ from the published "
            "files, so they are damaged or were changed. Delete the folder to fetch them again.",
        )


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0

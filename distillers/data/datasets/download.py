"""Fetching the files of a dataset: resumable, checked, and never half there."""

import hashlib
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from distillers.errors import InputError

TIMEOUT = 30.0  # seconds without a byte
TRIES = 20  # connections for one file, as long as each brings something
BLOCK = 1 << 16


def fetch(url: str, target: Path, md5: str) -> None:
    """Download a file, unless it is there; go on where an earlier try stopped.

    The bytes gather in `target` with `.part` added to its name, and take its name only once their
    checksum is right.

    Args:
        url: where the file is.
        target: where it shall be.
        md5: its checksum.

    Raises:
        InputError: if it cannot be fetched, or it or the file already there has another checksum.
    """
    if target.exists():
        verify_md5(target, md5, f"delete it to download {url} anew")
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
            if error.code == 416 and before:  # nothing beyond what is here: the sum will tell
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
    """Take the named files of one folder out of a tar archive; nothing else is ever written.

    They appear all at once, or not at all.

    Args:
        archive: a .tar.gz file, in which the files lie in a folder named like `folder`.
        folder: where they shall be; it must not hold anything yet.
        names: the files' names.

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
            raise InputError(
                f"cannot unpack {archive} ({error}); delete it to download it anew."
            ) from error
        if wanted:
            raise InputError(
                f"{archive} lacks {', '.join(sorted(wanted))}; delete it to download it anew."
            )
        os.replace(out, folder)


@contextmanager
def download_lock(folder: Path) -> Generator[None, None, None]:
    """Make other processes wait here, so that of several only one downloads into a folder.

    Args:
        folder: made if it is not there, and taken away again where nothing came into it; an
            empty file `.lock` stays in it otherwise.

    Raises:
        InputError: if the folder cannot be written to.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error}); choose another data_dir.") from error
    with lock:
        # Where there are no locks, two at once may spoil each other's file; the checksum sees it.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        except InputError:
            if made and [each.name for each in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                folder.rmdir()
            raise


def _append(url: str, part: Path) -> None:
    have = _size(part)
    headers = {"User-Agent": "distillers"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:  # the server sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if not sys.stderr.isatty():
            print(f"downloading {url} to {part.parent}", file=sys.stderr, flush=True)
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
    """Refuse a file with another checksum.

    Raises:
        InputError: with both sums and the advice.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise InputError(f"{file} has md5 {found}, expected {md5}; {advice}.")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0

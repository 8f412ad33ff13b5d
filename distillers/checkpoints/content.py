"""Recognize by their content files that are given as checkpoints but are something else."""

import zipfile
from pathlib import Path

from distillers.errors import CorruptFileError

PROGRAM = "a program of torch.export"
HEAD = 512  # bytes that are looked at
MAX_EXPANSION = 100  # of a compressed archive

INDEX = ".index.json"  # end of the name of the index of weights in several files
AGAIN = "Copy or download it again"
CONVERT = "Convert its weights with the code that wrote it"
DOWNLOAD = "The download stored a page instead of the file; use the direct link"
EXTRACT = "Extract it, and name a file in it"
SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself with git lfs pull"),
    (b"<!doctype html", "a web page", DOWNLOAD),
    (b"<html", "a web page", DOWNLOAD),
    (b"<?xml", "an XML document", DOWNLOAD),
    (b"\xff\xd8\xff", "a JPEG image", ""),
    (b"\x89png", "a PNG image", ""),
    (b"gif8", "a GIF image", ""),
    (b"riff", "a WebP image or a recording", ""),
    (b"%pdf", "a PDF document", ""),
    (b"\x1f\x8b", "a gzip archive", EXTRACT),
    (b"bzh", "a bzip2 archive", EXTRACT),
    (b"\xfd7zxz", "an xz archive", EXTRACT),
    (b"(\xb5/\xfd", "a zstd archive", EXTRACT),
    (b"7z\xbc\xaf", "a 7z archive", EXTRACT),
    (b"rar!", "a RAR archive", EXTRACT),
    (b"\x89hdf", "an HDF5 file, as Keras writes", CONVERT),
    (b"\x93numpy", "a NumPy array", CONVERT),
    (b"gguf", "a GGUF file", ""),
)
MEMBERS = (
    ("/constants.pkl", "a TorchScript program", "Save its weights with torch.save("
     "torch.jit.load(FILE).state_dict(), NEW_FILE), if you trust it, and name that file"),
    ("/archive_format", PROGRAM, "Give it the suffix .pt2"),
    (".npy", "a NumPy archive", CONVERT),
)  # fmt: skip


def check_content(path: Path, kind: str) -> None:
    """Check that a file is not empty, nor recognizably something else than weights.

    Args:
        path: the file.
        kind: what it should be, for the message, as in "a checkpoint".

    Raises:
        CorruptFileError: if it is; the message has what it is and what to do.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    what, advice = _describe(path, head)
    if what and what != kind:
        raise CorruptFileError(
            f"{path} is damaged or not {kind}: it is {what}.{f' {advice}.' if advice else ''}"
        )


def is_index(path: Path) -> bool:
    """Return whether a file is the index of weights in several files, by its name."""
    return path.name.endswith(INDEX)


def is_safetensors(path: Path) -> bool:
    """Return whether a file has the suffix or the header of safetensors."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:] == b"{" and 0 < length <= path.stat().st_size)


def _describe(path: Path, head: bytes) -> tuple[str, str]:
    """Return what a file is and what to do; ("", "") if it may be a file of weights."""
    if not head:
        return "empty", AGAIN
    if not head.strip(b"\0"):
        return "full of zeros", AGAIN
    if head[5:9] == b"\0\0\0{":  # the length of a safetensors header may look like a signature
        return "", ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, what, advice in SIGNATURES:
        if start.startswith(signature):
            return what, advice
    if head[257:262] == b"ustar":
        return "a tar archive", EXTRACT
    if head.startswith(b"PK"):
        return _describe_zip(path)
    if b'"weight_map"' in head:
        return "the index of weights in several files", f"Give it a name that ends in {INDEX}"
    text = head.decode("utf-8", "ignore")
    is_text = len(text.encode()) > len(head) - 4 and "".join(text.split()).isprintable()
    return (f"a text that begins with {text.strip()[:30]!r}", "") if is_text else ("", "")


def _describe_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return "a damaged ZIP archive", AGAIN
    names = [member.filename for member in members]
    for suffix, what, advice in MEMBERS:
        if any(name.endswith(suffix) for name in names):
            return what, advice
    if not any(name.endswith("data.pkl") for name in names):
        return "a ZIP archive", EXTRACT
    if sum(member.file_size for member in members) > MAX_EXPANSION * path.stat().st_size:
        return f"a ZIP archive that grows more than {MAX_EXPANSION} times", ""
    return "", ""

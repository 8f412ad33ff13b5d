"""Recognize by their content files that are named like images but are something else."""

CONVERT = "convert it to JPEG, PNG or WebP"
KINDS = (
    (4, b"ftyphei", "a HEIC image", CONVERT),
    (4, b"ftypmif", "a HEIC image", CONVERT),
    (4, b"ftypavi", "an AVIF image", CONVERT),
    (0, b"GIF8", "a GIF image", CONVERT),
    (0, b"BM", "a BMP image", CONVERT),
    (0, b"II*\0", "a TIFF image", CONVERT),
    (0, b"MM\0*", "a TIFF image", CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", CONVERT),
    (4, b"JXL ", "a JPEG XL image", CONVERT),
    (4, b"jP  ", "a JPEG 2000 image", CONVERT),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
    (0, b"<!", "a web page", "download the image itself"),
    (0, b"<html", "a web page", "download the image itself"),
    (0, b"\0\x05\x16\x07", "a file of attributes by macOS", "delete it"),
    (0, b"PK\x03\x04", "a ZIP archive", "extract it"),
)


def describe(content: bytes | bytearray) -> str:
    """Return what the content of a file is that is no image that is read, and what to do."""
    for place, start, what, advice in KINDS:
        if content[place : place + len(start)] == start:
            return f"it is {what}; {advice}"
    if not content.strip(b"\0"):
        return "it is full of zeros; copy or download it again" if content else "it is empty"
    return "it does not begin like a file of any kind that is read"

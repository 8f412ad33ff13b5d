"""Files of `torch.save` with a checksum inside, which every reader of such files still reads."""

import hashlib
from pathlib import Path

MARK = b"sha256:"
LENGTH = len(MARK) + 64
CHUNK = 2**20


def seal(content: bytes | memoryview) -> bytes:
    """`content`, a ZIP archive without a comment, with its SHA-256 as comment."""
    body = bytes(content)
    assert body[-22:-18] == b"PK\x05\x06"  # torch.save ends its archives so
    assert body[-2:] == b"\0\0"
    digest = hashlib.sha256(body[:-2]).hexdigest().encode()
    return body[:-2] + LENGTH.to_bytes(2, "little") + MARK + digest


def is_broken(path: Path) -> bool:
    """Whether a file has a checksum that is not its own; False for files without one."""
    size = path.stat().st_size
    if size < LENGTH + 2:
        return False
    with path.open("rb") as file:
        file.seek(size - LENGTH - 2)
        length, comment = file.read(2), file.read(LENGTH)
        if not comment.startswith(MARK):
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - LENGTH - 2
        while left:
            part = file.read(min(CHUNK, left))
            if not part:
                return True
            digest.update(part)
            left -= len(part)
    told = comment[len(MARK) :]
    return length != LENGTH.to_bytes(2, "little") or told != digest.hexdigest().encode()

"""Safe reading of CIFAR's pickle files.

A pickle can run arbitrary code. Here the few globals that CIFAR's files use are replaced by our own
functions, and any other global is an error, so not even numpy's code runs on untrusted input.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distillers.errors import InputError, shorten


def read(path: Path) -> dict[str, object]:
    """Read a pickled dictionary of numbers, strings, lists and uint8 arrays, of any Python.

    Returns:
        The dictionary, with keys as `str` and arrays as `numpy.ndarray` of uint8.

    Raises:
        InputError: if the file cannot be read or holds anything else.
    """
    advice = f"Delete the folder {path.parent} to download it again."
    try:
        raw = path.read_bytes()
        _check_memo(raw)
        content = _Reader(io.BytesIO(raw), encoding="bytes").load()
        if not isinstance(content, dict):
            raise InputError(f"holds a {type(content).__name__} instead of a dictionary.")
        return {as_text(key): _plain(value) for key, value in content.items()}
    except InputError as error:
        raise InputError(f"{path} {error} {advice}") from None
    except Exception as error:  # a damaged pickle can raise any exception
        why = shorten(repr(error))
        raise InputError(f"{path} is damaged or cut short ({why}). {advice}") from error


def _check_memo(raw: bytes) -> None:
    """Check that no value is stored under a number for which the reader would take all memory."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise InputError(f"is damaged: it stores value {argument}, of {count}.")


def as_text(value: object) -> str:
    """Decode a string that Python 2 may have written as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Array:
    """Stand-in for an array while it is unpickled."""

    def __init__(self) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, shape, _Dtype(), fortran, bytes() | bytearray() as raw):
                self.pixels = _pixels(raw, shape, "F" if fortran else "C")
            case _:
                raise InputError("holds an array of something other than bytes.")


class _Dtype:
    """Stand-in for the only dtype of CIFAR's arrays, uint8."""

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which uint8 does not have."""


class _Maker:
    """A function that a pickle may call but not modify."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self.make = make

    def __call__(self, *args: object) -> object:
        return self.make(*args)

    def __setstate__(self, state: object) -> None:
        raise InputError("tries to modify a function.")


def _pixels(raw: object, shape: object, order: object) -> np.ndarray:
    if (
        not isinstance(raw, bytes | bytearray)
        or not isinstance(shape, tuple)
        or not all(isinstance(size, int) and size >= 0 for size in shape)
        or math.prod(shape) != len(raw)
        or order not in ("C", "F")
    ):
        raise InputError("holds an array whose shape does not match its bytes.")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="C" if order == "C" else "F")


def _dtype(name: object, *_: object) -> _Dtype:
    if name not in ("u1", b"u1", "|u1", b"|u1"):
        raise InputError(f"holds an array of {as_text(name)}; only bytes (u1) are expected.")
    return _Dtype()


def _from_buffer(raw: object, _: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.pixels = _pixels(raw, shape, order)
    return array


def _encode(text: object, codec: object = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise InputError("holds bytes in an unexpected encoding.")
    return text.encode("latin1")


def _no_bytes(*args: object) -> bytes:
    if args:
        raise InputError("holds bytes made in an unexpected way.")
    return b""


def _nothing(*_: object) -> object:
    raise InputError("calls the type of an array.")


_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _nothing,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> _Maker:
        make = _KNOWN.get((module_name, global_name))
        if make is None:
            name = shorten(repr(f"{module_name}.{global_name}")[1:-1])
            raise InputError(f"asks for {name}, which no dataset needs; nothing was executed.")
        return _Maker(make)


def _plain(value: object) -> object:
    if isinstance(value, _Array):
        if value.pixels is None:
            raise InputError("holds an array without content.")
        return value.pixels
    return value

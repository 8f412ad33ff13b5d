"""Reading CIFAR's pickle files without running anything that they may hold.

A pickle is a program. Here the few names that CIFAR's files use lead to stand-ins of our own, and
any other name ends the reading, so not even numpy's code runs on what a file says.
"""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distillers.errors import InputError


def read(path: Path, advice: str) -> dict[str, object]:
    """Read a pickled dictionary of numbers, texts, lists and arrays of bytes.

    Args:
        path: of the file, written by Python 2 or 3, by old or new numpy.
        advice: what to do where the file cannot be read, as a sentence.

    Returns:
        The dictionary, its keys as text; an array as `numpy.ndarray` of uint8.

    Raises:
        InputError: if the file cannot be read or holds anything else.
    """
    try:
        with path.open("rb") as stream:
            content = _Reader(stream, encoding="bytes").load()
            if not isinstance(content, dict):
                raise InputError(f"holds a {type(content).__name__} instead of a dictionary.")
            return {as_text(key): _plain(value) for key, value in content.items()}
    except InputError as error:
        raise InputError(f"{path} {error} {advice}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is damaged or cut short ({error!r}). {advice}") from error


def as_text(value: object) -> str:
    """Text that Python 2 may have written as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Array:
    """What the file says of an array, until its bytes are there."""

    def __init__(self) -> None:
        self.pixels: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, shape, _Dtype(), fortran, bytes() | bytearray() as raw):
                self.pixels = _pixels(raw, shape, "F" if fortran else "C")
            case _:
                raise InputError("holds an array of something other than bytes.")


class _Dtype:
    """The one type of number that CIFAR's arrays have, one byte."""

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing of bytes."""


class _Maker:
    """A function that the file may call, and cannot alter."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self.make = make

    def __call__(self, *args: object) -> object:
        return self.make(*args)

    def __setstate__(self, state: object) -> None:
        raise InputError("tries to alter a function.")


def _pixels(raw: object, shape: object, order: object) -> np.ndarray:
    if (
        not isinstance(raw, bytes | bytearray)
        or not isinstance(shape, tuple)
        or not all(isinstance(size, int) and size >= 0 for size in shape)
        or math.prod(shape) != len(raw)
        or order not in ("C", "F")
    ):
        raise InputError("holds an array whose shape and bytes do not fit together.")
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
            raise InputError(
                f"asks for {module_name}.{global_name}, which has no place in a dataset; "
                "nothing of it was run."
            )
        return _Maker(make)


def _plain(value: object) -> object:
    if isinstance(value, _Array):
        if value.pixels is None:
            raise InputError("holds an array without content.")
        return value.pixels
    return value

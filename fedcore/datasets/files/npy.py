"""numpy's .npy format, read without trust in its header: nothing is unpickled, nothing taken that is not there."""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.errors import DataError

_MOST_HEADER = 10_000
_PLAIN = "biuf"  # kinds of numpy's types: truth values, integers, floats
_WORDS = "US"
_MOST_WORD = 1600  # bytes of a word: numpy's texts take four a character


def read_npy(file: IO[bytes], size: int, words: bool = False) -> AnyArray:
    """The array of a .npy file of ``size`` bytes.

    Raises ``DataError`` where it is none, holds anything but numbers (with ``words``, texts too), or not as many as
    its header says.
    """
    try:
        read: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]  # type: ignore[no-untyped-call]
        shape, fortran, dtype = read(file, max_header_size=_MOST_HEADER)
        count = math.prod(shape)
        short = words and dtype.kind in _WORDS and 0 < dtype.itemsize <= _MOST_WORD
        if (dtype.kind not in _PLAIN and not short) or dtype.hasobject:
            raise DataError(f"no plain array, but one of type {dtype}; give {'words or ' * words}numbers")
        if not all(0 <= side < 2**48 for side in shape) or len(shape) > 8 or count * dtype.itemsize > size:
            raise DataError(f"an array of shape {shape}, and the file has {size} bytes")
        data = file.read(count * dtype.itemsize + 1)
        if len(data) != count * dtype.itemsize:
            raise DataError(f"{len(data)} bytes or more for an array of shape {shape} and type {dtype}")
        array: AnyArray = np.frombuffer(data, dtype)
        return array.reshape(shape, order="F" if fortran else "C")
    except (DataError, MemoryError):  # what is here whole, and too much, is for a larger limit
        raise
    except Exception as error:  # noqa: BLE001 - foreign bytes: numpy and zipfile raise what they like
        raise DataError(f"no .npy array ({type(error).__name__})") from None

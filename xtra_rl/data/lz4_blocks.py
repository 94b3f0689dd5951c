"""LZ4 blocks decompressed straight to where their content belongs, and no further than it is wanted.

The package ``lz4`` gives each block as a new ``bytes`` of its whole content. Its shared library also holds the C
function that writes into given memory and stops early; it is called here by address, without the interpreter's lock.
Where a build hides it, the package's own function and a copy do the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import lz4.block
import lz4.block._block

#: ``(source, source bytes, target, wanted bytes, content bytes)``, addresses and sizes: writes the first ``wanted``
#: bytes of the block's content to ``target``; False if the block does not hold them.
Decoder = Callable[[int, int, int, int, int], bool]


def decode_by_copy(source: int, size: int, target: int, wanted: int, content: int) -> bool:
    """The plain way, with the package's Python function: ``content`` is the most that the block may hold."""
    try:
        raw = lz4.block.decompress(ctypes.string_at(source, size), uncompressed_size=content)
    except (lz4.block.LZ4BlockError, MemoryError, ValueError):
        return False
    ctypes.memmove(target, raw, min(wanted, len(raw)))
    return len(raw) >= wanted


def find_direct_decoder() -> Decoder | None:
    """The C function of the library that ``lz4`` has loaded; None where it cannot be reached."""
    try:
        function = ctypes.CDLL(lz4.block._block.__file__).LZ4_decompress_safe_partial
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    function.restype = ctypes.c_int

    def decode_direct(source: int, size: int, target: int, wanted: int, content: int) -> bool:
        return function(source, target, size, wanted, wanted) == wanted

    return decode_direct


decode_block: Decoder = find_direct_decoder() or decode_by_copy

"""CRC-32C as docs/format.md defines it: `crc(a ‖ b)` is the checksum of the concatenation."""

from __future__ import annotations

from collections.abc import Callable

import crcmod.predefined

_extend: Callable[[bytes | memoryview, int], int] = crcmod.predefined.mkCrcFun("crc-32c")


def extend_crc32c(value: int, part: bytes | memoryview) -> int:
    """The CRC-32C of what `value` is the CRC-32C of and, behind it, `part`."""
    return _extend(part, value)


def crc32c(*parts: bytes | memoryview) -> int:
    """The CRC-32C of the parts, one behind the other."""
    value = 0
    for part in parts:
        value = _extend(part, value)
    return value

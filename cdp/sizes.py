"""Sizes as text."""

from __future__ import annotations

import re

from cdp.errors import Invalid

_SIZE = re.compile(r"([0-9]{1,20})(?:([KMGTPE])(i?B)?|B)?", re.ASCII)
_POWERS = {unit: power for power, unit in enumerate("KMGTPE", start=1)}


def parse_size(text: str) -> int:
    """Bytes in `10GiB`, `512M`, `4096`: K, M, G … and KiB, MiB … are powers of 1024, KB, MB … of 1000. Invalid otherwise."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:100]!r} is no size: give a whole number with or without a unit, as 10GiB, 512M or 1T")
    if found[2] is None:
        return int(found[1])
    base = 1000 if found[3] == "B" else 1024
    return int(found[1]) * int(base ** _POWERS[found[2]])

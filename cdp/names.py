"""Names of volumes, bookmarks and groups: one pattern, so that no name needs encoding in an NBD URI."""

from __future__ import annotations

import re

from cdp.errors import Invalid

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VOLUME_ID = re.compile(r"[0-9a-f]{32}")


def is_name(text: str) -> bool:
    """Whether `text` may name a volume or a bookmark."""
    return NAME.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """`text`, or Invalid: `what` says what it would have named ("volume", "bookmark")."""
    if not is_name(text):
        raise Invalid(
            f"{text[:200]!r} cannot name a {what}: 1 to 128 letters, digits, '.', '_' and '-', the first a letter or a digit"
        )
    return text


def is_volume_id(text: str) -> bool:
    """Whether `text` has the form of a volume's ID, which is also its folder's name (docs/format.md, "The store")."""
    return VOLUME_ID.fullmatch(text) is not None

"""Files out of an instant: its file system mounted for a moment, through a scratch view, where nobody else gets at it.

Invariants:
- What was mounted and attached for it goes again, however the work ends.
- A path means what it meant on that disk: links are followed inside it, and never lead out into this machine's files.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cdp.attach import mounting
from cdp.attach.left import Wish
from cdp.errors import Invalid, Io, NotFound

if TYPE_CHECKING:
    from cdp.store import Store

LINKS_MAX = 40
"""As many as the kernel follows for one path."""
OPTIONS = ("nosuid", "nodev", "noexec")


@dataclass(frozen=True, slots=True)
class Place:
    """A path on the disk that `export` shows: VOLUME[@WHEN]:/PATH, taken apart."""

    export: str
    path: PurePosixPath


def parse_place(text: str) -> Place:
    """Pure. Invalid if it is none. WHEN may hold colons, and never a slash."""
    export, colon, path = text.partition(":/")
    if not colon:
        raise Invalid(f"{text[:200]!r} names no file: VOLUME@WHEN:/PATH")
    return Place(export, PurePosixPath("/" + path))


@contextmanager
def found(verbs: Store, text: str, absolute: Callable[[str], str]) -> Iterator[Path]:
    """Where VOLUME[@WHEN]:/PATH is, for a `with` block; `absolute` looks the WHEN of an export up. Invalid if it is no place, NotFound if nothing is there."""
    wanted = parse_place(text)
    with mounted(verbs, absolute(wanted.export)) as root:
        yield resolve(root, wanted.path)


@contextmanager
def mounted(verbs: Store, export: str) -> Iterator[Path]:
    """The root folder of the file system that an instant shows, for a `with` block."""
    folder = Path(tempfile.mkdtemp(prefix="cdp-look-"))
    try:
        facts = verbs.attach(Wish(export, mount=str(folder)))
        try:
            mounting.mount(facts, folder, OPTIONS)
            try:
                yield folder
            finally:
                mounting.unmount(facts)
        finally:
            verbs.detach(facts.device)
    finally:
        folder.rmdir()


def resolve(root: Path, path: PurePosixPath) -> Path:
    """Where a path on the mounted disk is. NotFound if nothing is there, Invalid with more links than a kernel follows."""
    ahead = list(reversed(path.parts[1:]))
    at: list[str] = []
    links = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            del at[-1:]
            continue
        here = root.joinpath(*at, part)
        try:
            mode = here.lstat().st_mode
        except OSError as error:
            kind = NotFound if error.errno in (errno.ENOENT, errno.ENOTDIR) else Io
            raise kind(f"{path}: {os.strerror(error.errno or 0)}") from error
        if not stat.S_ISLNK(mode):
            at.append(part)
            continue
        links += 1
        if links > LINKS_MAX:
            raise Invalid(f"{path}: more than {LINKS_MAX} links")
        target = PurePosixPath(os.readlink(here))
        if target.is_absolute():
            at = []
        ahead += [it for it in reversed(target.parts) if it != "/"]
    return root.joinpath(*at)
